"""The verdicts of acceptance, on servers that are not there."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from sglang_hisa.launch.acceptance import __main__ as acceptance
from sglang_hisa.launch.acceptance import case_run, cases, pd, probes, ranks, rounding, whole
from sglang_hisa.launch.acceptance.cases import CASES, Case
from sglang_hisa.launch.common import claims, models
from sglang_hisa.launch.common.adapters import make_gates
from sglang_hisa.launch.common.server import ServerFailed, cpu_env
from sglang_hisa.launch.common.typed import as_json
from sglang_hisa.patches.contract import installed_version

NOTHING_PRUNED = {"decode": {"candidate_share": 1.0}, "prefill": {"candidate_share": None}, "stock": {}}


class Server:
    """Answers at once: stock counts on from the prompt's length; HISA too, by ``off`` more from ``parts`` on.

    ``tops``: log-probs of the token that stock takes (0) and of those so much above it. ``digests``: a letter
    for each call of the indexer, of either rank. ``adapts``: what an adapter adds to each token.
    """

    receipt: ClassVar[dict[str, Any]] = {}
    adapts, adapts_wrongly = 5, 0
    off, parts, dies, found, stock_receipt, refuses = 0, 0, "", 64, None, True
    tops: ClassVar[dict[int, float]] = {0: -0.5, 1: -0.75}
    digests = ("abcde", "abcde")
    started: ClassVar[list[Server]] = []

    def __init__(self, flags: list[str], *, env: dict[str, str], log: Path) -> None:
        self.log, self.asked = log, 0
        self.argv, self.env, self.hisa = flags, env, "SGLANG_HISA" in env
        self.paths: list[Any] = []
        self.rooms: list[int] = []
        log.write_text("the end\n")
        Server.started.append(self)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait_ready(self, timeout: float, progress: Any, every: float) -> float:
        if self.dies and self.dies in self.argv:
            raise ServerFailed("the server exited with code 3\nlog")
        if "RANKS_DIFFER" in self.env and self.refuses:
            self.log.write_text(f"[rank 1] {ranks.REFUSAL}: preset\n")
            raise ServerFailed("the server exited with code 1")
        return 12.3

    def mode(self) -> str | None:
        at = [i for i, word in enumerate(self.argv) if word == "--disaggregation-mode"]
        return self.argv[at[0] + 1] if at else None

    def flush_cache(self) -> None:
        self.paths.append("/flush_cache")

    def request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        self.paths.append((path, body))
        return {"max_total_num_tokens": 4096}

    def generate(self, prompt: list[int], count: int = 16, **fields: Any) -> dict[str, Any]:
        self.asked += 1
        for rank, digests in enumerate(self.digests if "RANKS" in self.env else ""):
            told = {"digests": list(digests[: self.asked])}
            (Path(self.env["RANKS"]) / f"{rank}.json").write_text(json.dumps(told))
        self.rooms += [fields["bootstrap_room"]] if "bootstrap_room" in fields else []
        tokens = list(range(len(prompt), len(prompt) + count))
        if "lora_path" in fields:
            tokens = [token + self.adapts + self.hisa * self.adapts_wrongly for token in tokens]
        if self.hisa:
            tokens[self.parts :] = [token + self.off for token in tokens[self.parts :]]
        meta = {"cached_tokens": self.found, "finish_reason": "length", "spec_verify_ct": count // 3}
        meta["cached_tokens_details"] = {"host": 64}
        if fields.get("return_logprob"):
            assert len(self.tops) <= fields["top_logprobs_num"] and "logprob_start_len" not in fields
            meta["output_top_logprobs"] = [
                [[logprob, token + more, None] for more, logprob in self.tops.items()] for token in tokens
            ]
        return {"output_ids": tokens, "meta_info": meta}

    def stream(self, prompt: list[int], count: int) -> Iterator[dict[str, Any]]:
        for number in range(count):
            yield {"output_ids": list(range(number + 1))}

    def receipts(self) -> list[dict[str, Any] | None]:
        if not self.hisa:
            return [self.stock_receipt]
        return [
            {
                "active": True,
                "layers": 2,
                "summary_bytes": 3 << 19,
                "hisa_steps": {"prefill": 9},
                "graphs_with_hisa": 4,
                "canary": {"checks": 100, "violations": 0},
                "summary_rebuilds": {"hicache_load": 3},
                "rows": {"decode": {"candidate_share": 0.4}, "stock": {"idle": 2}},
                **self.receipt,
            }
        ]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs cases on such servers: (exit code, rows by case)."""

    def call(cases: str, *more: str, **server: Any) -> tuple[int, dict[str, Any]]:
        Server.started = []
        for module in (case_run, pd, ranks):
            monkeypatch.setattr(module, "ServerProcess", type("Other", (Server,), server))
        out = tmp_path / "acceptance.json"
        asked = ["--cases", *cases.split()] if cases else []
        code = acceptance.main(["--cpu", "--out", str(out), *more, *asked])
        rows = json.loads(out.read_text())["rows"]
        assert len({row["case"] for row in rows}) == len(rows)
        return code, {row["case"]: row for row in rows}

    return call


def test_a_case_that_serves_is_a_row_of_facts(call) -> None:
    code, rows = call("plain mtp")
    assert code == 0 and list(rows) == ["plain", "mtp"]
    facts = rows["mtp"]["facts"]
    assert rows["mtp"]["problems"] == [] and rows["mtp"]["provenance"]["python"]
    assert facts["stock_repeats"] == facts["hisa_equals_stock"] == 1 and "gap_nats" not in facts
    assert facts["stock_tokens_a_step"] == facts["hisa_tokens_a_step"] == 3
    assert facts["requests"] == 18 and facts["ranks"][0]["stock_rows"] == {"idle": 2}
    stock, hisa = Server.started[2:]
    assert "EAGLE" in stock.argv and stock.argv == hisa.argv and not stock.hisa
    assert json.loads(hisa.env["SGLANG_HISA"])["canary"] == "full"


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"off": 1}, "within the budget HISA's answers are not stock's"),
        ({"found": 0}, "no request found a prefix"),
        ({"stock_receipt": {"active": True}}, "ServerFailed: arm stock: serves HISA"),
        ({"receipt": {"active": False}}, "ServerFailed: arm hisa: the receipt says that HISA is not active"),
        ({"receipt": {"canary": {"checks": 9, "violations": 1}}}, "rank 0: canary"),
        ({"receipt": {"rows": NOTHING_PRUNED}}, "rank 0: no row was pruned"),
        ({"receipt": {"canary": {"checks": 0, "violations": 0}}}, "rank 0: canary"),
        ({"receipt": {"hisa_steps": {"decode": 3}}}, "rank 0: HISA's steps"),
        ({"receipt": {"hisa_steps": {"prefill": 3}, "graphs_with_hisa": 0}}, "rank 0: HISA's steps"),
        ({"receipt": {"summary_rebuilds": {}}}, "nothing came back from the host"),
    ],
)
def test_what_is_wrong_is_a_problem_and_exit_1(call, server: dict[str, Any], said: str) -> None:
    code, rows = call("hicache", **server)
    assert code == 1 and len(rows["hicache"]["problems"]) == 1
    assert rows["hicache"]["problems"][0].startswith(said)


def test_a_hisa_server_that_is_not_right_is_told_before_stock_is_waited_for(call) -> None:
    """Both start at once and take minutes: what HISA refuses is known as soon as it says so."""
    _, rows = call("plain", receipt={"active": False})
    facts = rows["plain"]["facts"]
    assert len(Server.started) == 2 and not {"stock_ready_s", "requests"} & facts.keys()


def interrupt(*args: object, **named: object) -> float:
    raise KeyboardInterrupt


def test_a_case_that_is_cut_off_leaves_a_row_and_runs_again(call, tmp_path: Path) -> None:
    """SIGTERM comes as Ctrl-C does. The row tells how far the case came, and is not taken for a right one."""
    with pytest.raises(KeyboardInterrupt):
        call("plain mtp", flush_cache=interrupt)
    (row,) = json.loads((tmp_path / "acceptance.json").read_text())["rows"]
    assert row["case"] == "plain" and row["problems"] == ["cut off after 0 s"]
    assert row["facts"]["stock_ready_s"] == 12 and "requests" not in row["facts"]
    assert row["log_tails"] == {f"acceptance-plain-{arm}": ["the end"] for arm in ("stock", "hisa")}
    code, rows = call("plain mtp", "--missing")
    assert code == 0 and rows["plain"]["problems"] == rows["mtp"]["problems"] == []
    with pytest.raises(KeyboardInterrupt):
        call("mtp", wait_ready=interrupt)
    rows = json.loads((tmp_path / "acceptance.json").read_text())["rows"]
    assert all(row["problems"] == [] for row in rows), "a right row stays"


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({}, None),
        ({"adapts": 0}, "the adapter changes none of stock's answers"),
        ({"adapts_wrongly": 1}, "with the adapter HISA's answers are not stock's"),
    ],
)
def test_an_adapter_changes_answers_and_hisa_keeps_them(call, server: dict[str, Any], said: str) -> None:
    code, rows = call("lora", tops={0: -0.5, 6: -0.51, 1: -0.9}, **server)
    assert code == bool(said) and [text.partition(":")[0] for text in rows["lora"]["problems"]] == (
        [said] if said else []
    )
    facts = rows["lora"]["facts"]
    assert facts["adapted_equals_stock"] == (0 if "adapts_wrongly" in server else 1)
    assert facts["adapted_equals_plain"] == (1 if server.get("adapts") == 0 else 0)
    for one in Server.started:
        folder = Path(one.argv[one.argv.index("--lora-paths") + 1].removeprefix("gates="))
        assert folder.name == "lora-gates" and "--enable-lora" in one.argv


def test_an_adapter_has_the_shapes_of_the_gates_that_the_model_has(tmp_path: Path) -> None:
    model = models.make_tiny(
        tmp_path / "model", family="glm5", layers=5, index_topk_freq=2, more={"index_n_heads": 8}
    )
    adapter = make_gates(tmp_path / "gates", model)
    found = load_file(adapter / "adapter_model.safetensors")
    shapes = {name.split(".layers.")[1]: tuple(tensor.shape) for name, tensor in found.items()}
    rank = json.loads((adapter / "adapter_config.json").read_text())["r"]
    name = "self_attn.indexer.weights_proj.lora"
    assert shapes == {
        **{f"{layer}.{name}_A.weight": (rank, 128) for layer in (0, 1, 3)},
        **{f"{layer}.{name}_B.weight": (8, rank) for layer in (0, 1, 3)},
    }


@pytest.mark.parametrize(("layers", "problems"), [(2, 0), (3, 1)])
def test_only_layers_that_choose_have_summaries(call, layers: int, problems: int) -> None:
    """4096 tokens are 64 pages and SGLang's dummy page, 132 bytes each."""
    code, rows = call("keyless-layers", receipt={"summary_bytes": layers * 65 * 132})
    assert code == problems and len(rows["keyless-layers"]["problems"]) == problems
    assert rows["keyless-layers"]["facts"]["layers_with_summaries"] == layers


def test_calls_share_the_cases_that_are_missing(call, tmp_path: Path) -> None:
    """What another call has begun is left to it; with no --missing it is run all the same."""
    with claims.held("case", str(tmp_path / "acceptance.json"), "plain"):
        code, rows = call("plain glm5", "--missing")
        assert code == 0 and list(rows) == ["glm5"]
        code, rows = call("plain", off=1)
    assert code == 1 and rows["plain"]["problems"]
    code, rows = call("plain glm5", "--missing")
    assert code == 0 and rows["plain"]["problems"] == [] and len(Server.started) == 2


def test_what_another_call_finds_wrong_is_not_run_again_by_this_one(call, tmp_path: Path) -> None:
    def other_call(self: Server, timeout: float, progress: Any, every: float) -> float:
        path = tmp_path / "acceptance.json"
        record = json.loads(path.read_text())
        wrong = {"case": "plain", "shows": "it", "problems": ["wrong"]}
        path.write_text(json.dumps({**record, "rows": [wrong]}))
        return 1.0

    code, rows = call("glm5 plain", "--missing", wait_ready=other_call)
    assert code == 0 and rows["plain"]["problems"] == ["wrong"] and len(Server.started) == 2


def test_a_row_of_another_sglang_does_not_count(call, tmp_path: Path) -> None:
    assert call("plain")[0] == 0 and len(Server.started) == 2
    path = tmp_path / "acceptance.json"
    path.write_text(path.read_text().replace(f'"sglang": "{installed_version()}"', '"sglang": "0.5.1"'))
    code, rows = call("plain", "--missing")
    assert code == 0 and len(Server.started) == 2
    assert rows["plain"]["provenance"]["sglang"] == installed_version()
    assert call("plain", "--missing")[0] == 0 and not Server.started


def answer(*tokens: int, **likely: Any) -> dict[str, Any]:
    """``likely``: log-probs by token id of one position, ``at2={7: -0.5}``; the others are not looked at."""
    rows = [[[p, t, None] for t, p in likely.get(f"at{i}", {}).items()] for i in range(len(tokens))]
    return {"output_ids": list(tokens), "meta_info": {"output_top_logprobs": rows}}


@pytest.mark.parametrize(
    ("stock", "ours", "share", "gap", "said"),
    [
        (answer(7, 8, 9), answer(7, 8, 9), 1, None, ""),
        (answer(7, 8, 9, at2={9: -0.50, 5: -0.53}), answer(7, 8, 5), 2 / 3, 0.03, ""),
        (answer(7, 8, 9, at1={8: -0.0, 6: -0.05}), answer(7, 6, 1), 1 / 3, 0.05, ""),
        (answer(7, 8, 9, at1={8: -0.52, 6: -0.5}), answer(7, 6, 9), 1 / 3, 0.02, ""),
        (answer(7, 8, 9, at1={8: -0.5, 6: -0.6}), answer(7, 6, 9), 1 / 3, 0.1, "1: 6 for 8, 0.100 nats"),
        (answer(7, 8, 9, at1={8: -0.6, 6: -0.5}), answer(7, 6, 9), 1 / 3, 0.1, "1: 6 for 8, 0.100 nats"),
        (answer(7, 8, at0={7: -0.5, 3: -0.5}), answer(6, 8), 0, None, "0: 6 for 7, and 6 is not among the 2"),
        (answer(7, 8, at0={6: -0.5, 3: -0.5}), answer(6, 8), 0, None, "0: 6 for 7, and 7 is not among the 2"),
        (answer(7, 8, at0={7: math.nan, 6: -0.5}), answer(6, 8), 0, math.nan, "0: 6 for 7, nan nats apart"),
    ],
)
def test_a_first_difference_is_rounding_or_more(stock, ours, share: float, gap: float, said: str) -> None:
    agreement = rounding.compare([stock], [ours], lambda number, at: rounding.likely(stock, at))
    assert agreement.share == pytest.approx(share)
    assert agreement.gap == (gap if gap is None else pytest.approx(gap, nan_ok=True))
    assert len(agreement.wrong) == bool(said) and said in "".join(agreement.wrong)


def test_the_largest_gap_of_all_answers_counts() -> None:
    """Equal ones and what follows a first difference are not looked at."""
    stock = [
        answer(1, 2, at1={2: -0.5, 3: -0.51}),
        answer(4, 5, 6, at0={4: -0.5, 9: -0.54}, at1={5: 0.0, 8: -9.0}),
        answer(7, 7, at0={7: 0.0, 1: -9.0}),
        answer(1, 2, at1={2: -0.5, 3: -0.52}),
    ]
    ours = [answer(1, 3), answer(9, 8, 6), answer(7, 7), answer(1, 3)]
    agreement = rounding.compare(stock, ours, lambda number, at: rounding.likely(stock[number], at))
    assert (agreement.share, agreement.gap_nats) == (pytest.approx(4 / 9), pytest.approx(0.04))
    assert agreement.wrong == []


def test_log_probs_are_asked_for_where_answers_differ_and_after_the_same_text(call) -> None:
    code, rows = call("plain", off=1, parts=6, tops={0: -0.5, 2: -0.9, 1: -0.51})
    assert code == 0 and rows["plain"]["problems"] == []
    assert rows["plain"]["facts"]["gap_nats"] == 0.01 and rows["plain"]["facts"]["hisa_equals_stock"] == 0.25
    code, rows = call("plain", off=1, tops={0: -0.5, 2: -0.51})
    assert code == 1 and "is not among the 2 most likely" in rows["plain"]["problems"][0]


@pytest.mark.parametrize(("tops", "wrong"), [({0: -0.5, 1: -0.53}, 0), ({0: -0.5, 2: -0.53}, 1)])
def test_a_pair_beside_one_server_is_judged_likewise(call, tops: dict[int, float], wrong: int) -> None:
    code, rows = call("", "--disaggregate", "nixl", off=1, tops=tops)
    assert code == wrong and [len(row["problems"]) for row in rows.values()] == [0, wrong, wrong, 0]
    gaps = [row["facts"].get("gap_nats") for row in rows.values()]
    assert gaps == [None, *[None if wrong else 0.03] * 2, None]
    assert [row["facts"]["equals_stock_within"] for row in rows.values()] == [1, 0, 0, 1]
    assert rows["pd-both"]["facts"]["equals_alone_beyond"] == 1


def test_a_dead_server_is_a_row_and_the_next_case_runs(call) -> None:
    code, rows = call("torch-topk plain", dies="torch")
    assert code == 1 and rows["plain"]["problems"] == []
    assert rows["torch-topk"]["problems"] == ["ServerFailed: the server exited with code 3"]
    assert rows["torch-topk"]["log_tails"] == {
        "acceptance-torch-topk-hisa": ["the end"],
        "acceptance-torch-topk-stock": ["the end"],
    }
    code, rows = call("torch-topk plain", "--missing")
    assert code == 0 and list(rows) == ["torch-topk", "plain"], "the row is replaced, the other stays"
    assert len(Server.started) == 2, "what is right is not asked again"


def test_a_case_for_a_gpu_says_so_on_a_cpu(call) -> None:
    code, rows = call("fp8-kv")
    assert code == 1 and rows["fp8-kv"]["problems"] == ["ValueError: needs a GPU"] and not Server.started


def test_cases_on_a_gpu(tmp_path: Path) -> None:
    """Each has a model that can be written, probes that exist, and a context for its longest prompt."""
    machine = case_run.Machine(False, {}, tmp_path, tmp_path, print)
    for name, case in CASES.items():
        flags = machine.flags(case, machine.write_model(case, tmp_path / name))
        sizes, value = machine.sizes(case), dict(itertools.pairwise(flags))
        assert max(sizes.longest, sizes.longer) + 33 <= int(value["--context-length"])
        assert sizes.longer < int(value["--max-total-tokens"])
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert int(value["--context-length"]) <= config["max_position_embeddings"]
        assert value["--load-format"] == "auto" and (tmp_path / name / "model.safetensors").exists()
        assert set(case.extra) <= set(case_run.PROBES)
    assert max(case_run.GPU.short) + 24 < case_run.GPU.budget < case_run.GPU.longest
    assert max(case_run.CPU.short) + 24 < case_run.CPU.budget < case_run.CPU.longest


def test_times_of_the_longest_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the request to each token, on a clock that this test turns; the median forgives one slow token."""
    clock = [0.0]
    monkeypatch.setattr(probes.time, "perf_counter", lambda: clock[0])

    class Slow(Server):
        fresh = True

        def flush_cache(self) -> None:
            self.fresh = True

        def stream(self, prompt: list[int], count: int) -> Iterator[dict[str, Any]]:
            assert len(prompt) == 900
            for number, answer in enumerate(super().stream(prompt, count)):
                clock[0] += (9 if self.fresh else 2) if number == 0 else 0.75 if number == 7 else 0.0125
                self.fresh = False
                if number < 9 or number % 2 == 0:  # a busy machine passes on two at once
                    yield answer
            yield answer  # a last word without a token of its own

    servers = [
        Slow([], env=env, log=tmp_path / f"{arm}.log")
        for arm, env in (("stock", {}), ("hisa", {"SGLANG_HISA": "{}"}))
    ]
    pair = probes.Pair(*servers, probes.Sizes(256, (), 700, 1, 900))
    probes.long(pair)
    times = {"ttft_s": 9, "cached_ttft_s": 2, "itl_ms": 12.5}
    of_both = {f"{arm}_{name}": value for arm in ("stock", "hisa") for name, value in times.items()}
    assert as_json(pair.facts) == {**of_both, "kv_tokens": 4096, "summary_mib": 1.5} and not pair.problems


@pytest.mark.parametrize("server", [{}, {"off": 1}, {"receipt": {"canary": {"checks": 9, "violations": 1}}}])
def test_disaggregation(call, server: dict[str, Any]) -> None:
    """HISA on both servers, on decode, on prefill; a wrong answer or summary is a problem of its row."""
    code, rows = call("", "--disaggregate", "nixl", **server)
    assert code == bool(server) and list(rows) == list(pd.SIDES)
    assert [(s.hisa, s.mode()) for s in Server.started] == [
        *((False, None), (True, None)),
        *((False, "prefill"), (False, "decode"), (True, "prefill"), (True, "decode")),
        *((False, "prefill"), (True, "decode")),
        *((True, "prefill"), (False, "decode")),
    ]
    sides = [sorted({"prefill", "decode"} & row["facts"].keys()) for row in rows.values()]
    assert sides == [[], ["decode", "prefill"], ["decode"], ["prefill"]]
    for prefill, decode in zip(Server.started[2::2], Server.started[3::2]):
        assert prefill.rooms and sorted(prefill.rooms) == sorted(decode.rooms)
        assert len(set(prefill.rooms)) == len(prefill.rooms)
    wrong = [len(row["problems"]) for row in rows.values()]
    assert wrong == ([0, 1, 1, 0] if "off" in server else [0, 2, 1, 1] if server else [0] * 4)
    if not server:
        facts = [row["facts"].get("equals_alone_beyond") for row in rows.values()]
        assert facts == [1, 1, None, None]
        assert call("", "--disaggregate", "nixl", "--missing")[0] == 0 and not Server.started


@pytest.mark.parametrize(
    ("server", "problems"),
    [({}, (0, 0)), ({"digests": ("", "")}, (1, 0)), ({"refuses": False}, (0, 1)), ({"dies": "--tp"}, (1, 1))],
)
def test_two_ranks(call, tmp_path: Path, server: dict[str, Any], problems: tuple[int, int]) -> None:
    code, rows = call("", "--ranks", "tests/plugins/ranks", **server)
    assert code == any(problems)
    assert {name: len(row["problems"]) for name, row in rows.items()} == dict(zip(ranks.RANKS, problems))
    assert all(s.hisa and s.env["PYTHONPATH"].endswith("/tests/plugins/ranks") for s in Server.started)
    assert ["RANKS_DIFFER" in s.env for s in Server.started] == [False, True]
    if not any(problems):
        facts = rows["ranks-same"]["facts"]
        assert (facts["calls"], facts["calls_that_differ"]) == (5, 0)
        assert rows["ranks-differ"]["facts"]["message"] == f"{ranks.REFUSAL}: preset\n"


def test_a_rank_is_told_by_what_each_row_chose_in_whatever_order() -> None:
    spec = importlib.util.spec_from_file_location("hisa_ranks", "tests/plugins/ranks/hisa_ranks.py")
    assert spec and spec.loader
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)

    def told(*rows: list[int]) -> str:
        return str(plugin.digest(torch.tensor(rows, dtype=torch.int32)))

    one = told([3, 1, 2], [5, -1, 4])
    assert len(one) == 16 and told([1, 2, 3], [4, 5, -1]) == one
    assert one not in (told([3, 1, 2], [5, -1, 6]), told([5, -1, 4], [3, 1, 2]), told([3, 1, 2]))


@pytest.mark.parametrize(("other", "differ"), [("abxde", 1), ("abcd", 1), ("edcba", 4)])
def test_calls_in_which_ranks_differ_are_counted(call, other: str, differ: int) -> None:
    code, rows = call("", "--ranks", "tests/plugins/ranks", digests=("abcde", other))
    row = rows["ranks-same"]
    assert code == 1 and row["facts"]["calls_that_differ"] == differ
    assert row["problems"] == [f"the ranks chose differently in {differ} of 5 calls"]


def test_sglang_knows_the_flags_of_every_case() -> None:
    """Those of its version; a flag or a choice that is gone ends SGLang's parser."""
    parse = """
import argparse, json, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser()
ServerArgs.add_cli_args(parser)
for flags in json.loads(sys.argv[1]):
    parser.parse_args(["--model-path", "model", *flags])
"""
    every = {**CASES, **cases.of(8), **whole.cases(8)}
    flags = [case.flags for case in every.values() if installed_version() in case.versions]
    flags += [
        ranks.case(2).flags,
        whole.SERVED,
        ("--disaggregation-transfer-backend", "nixl", "--base-gpu-id", "1"),
    ]
    words = [sys.executable, "-c", parse, json.dumps(flags)]
    done = subprocess.run(words, env=cpu_env(os.environ, None), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]


def test_memory_is_released_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Server.started = []
    monkeypatch.setattr(case_run, "ServerProcess", Server)
    machine = case_run.Machine(True, {}, tmp_path, tmp_path, print)
    row = case_run.run_case("sleep", Case("", extra=("sleep", "long")), machine)
    assert not row.problems and row.facts.slept and row.facts.hisa_ttft_s >= 0
    assert (row.facts.kv_tokens, row.facts.summary_mib) == (4096, 1.5)
    for server in Server.started:
        assert [path for path in server.paths if "memory" in path[0]] == [
            ("/release_memory_occupation", {"tags": ["kv_cache"]}),
            ("/resume_memory_occupation", {"tags": ["kv_cache"]}),
        ]
