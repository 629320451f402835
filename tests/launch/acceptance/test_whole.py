"""The whole model on several GPUs: its flags, its load, the verdict on its ranks; no server is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sglang_hisa.config import from_mapping
from sglang_hisa.launch.acceptance import __main__ as acceptance
from sglang_hisa.launch.acceptance import case_run, pd, whole
from sglang_hisa.launch.common.receipts import Canary, Phase, Receipt, Rows

GOOD = Receipt(
    active=True,
    preset="paper",
    layers=61,
    graphs_with_hisa=52,
    hisa_steps={"prefill": 12, "decode": 60},
    rows=Rows(Phase(98304, 0.4), Phase(480, 0.1), {"prefill: within the budget": 8192}),
    canary=Canary(4096, 0),
)


def with_rows(**phases: Phase | None) -> Receipt:
    return replace(GOOD, rows=replace(GOOD.rows, **phases))


def test_ranks_that_agree_and_prune_are_right() -> None:
    kept, problems = whole.judged([GOOD] * 8, pd.MODES, alike=True)
    assert problems == [] and len(kept) == 8 and kept[7].candidate_share == {"prefill": 0.4, "decode": 0.1}


@pytest.mark.parametrize(
    ("one", "problems"),
    [
        (with_rows(decode=Phase(480, 1.0)), ["rank 1: decode: no row was pruned"]),
        (with_rows(prefill=Phase(98304, 1.0)), ["rank 1: prefill: no row was pruned"]),
        (with_rows(decode=Phase()), ["rank 1: decode: no row was pruned"]),
        (with_rows(decode=None), ["rank 1: decode: no row was pruned"]),
        (replace(GOOD, canary=Canary(4096, 3)), ["rank 1: canary: 3 of 4096 summaries wrong"]),
        (replace(GOOD, canary=Canary()), ["rank 1: canary: it checked no summary"]),
        (replace(GOOD, preset="balanced"), ["rank 1 differs from rank 0: preset balanced, not paper"]),
        (replace(GOOD, graphs_with_hisa=51), ["rank 1 differs from rank 0: graphs_with_hisa 51, not 52"]),
        (replace(GOOD, active=False), ["rank 1: no active receipt"]),
        (None, ["rank 1: no active receipt"]),
    ],
)
def test_a_rank_that_is_not_as_it_should_be(one: Receipt | None, problems: list[str]) -> None:
    """Under DP attention, where ranks have rows of their own."""
    kept, found = whole.judged([GOOD, one], pd.MODES, alike=False)
    assert found == problems and len(kept) == 2


def test_ranks_keep_their_numbers_where_one_is_silent() -> None:
    other = replace(GOOD, layers=60)
    found = [whole.judged(ranks, (), alike=True)[1] for ranks in ([GOOD, None, other], [None, GOOD, other])]
    assert found == [
        ["rank 1: no active receipt", "rank 2 differs from rank 0: layers 60, not 61"],
        ["rank 0: no active receipt", "rank 2 differs from rank 1: layers 60, not 61"],
    ]


def test_ranks_of_a_tp_group_see_the_same_rows() -> None:
    other = replace(with_rows(prefill=Phase(98304, 0.41)), hisa_steps={"prefill": 12, "decode": 59})
    assert whole.judged([GOOD, other], pd.MODES, alike=False)[1] == []
    found = whole.judged([GOOD, other], pd.MODES, alike=True)[1]
    begin = "rank 1 differs from rank 0: "
    assert len(found) == 2 and found[0].startswith(f"{begin}rows") and found[1].startswith(f"{begin}hisa_")


def test_a_side_of_a_pair_has_one_phase() -> None:
    prefill = with_rows(decode=Phase())
    assert whole.judged([prefill], ("prefill",), alike=True)[1] == []
    assert whole.judged([prefill], ("decode",), alike=True)[1] == ["rank 0: decode: no row was pruned"]


@pytest.mark.parametrize(("gpus", "rows"), [(1, 2), (2, 6), (8, 6)])
def test_rows_of_a_machine(gpus: int, rows: int, tmp_path: Path) -> None:
    """Each server has all GPUs, or half of them; as it is served, but for what made-up weights need."""
    found = whole.cases(gpus)
    assert len(found) == rows and all(name.split("-")[1][2:] == str(gpus) for name in found)
    machine = whole.Big(False, {}, tmp_path, tmp_path, print, gpu_mib=143771)
    for name, case in found.items():
        flags = machine.flags(case, tmp_path)
        half = name.startswith("whole-pd")
        assert case.gpus == (gpus // 2 if half else gpus)
        assert flags[flags.index("--tp") + 1] == str(case.gpus) if case.gpus > 1 else "--tp" not in flags
        assert ("--enable-dp-attention" in flags) == name.startswith("whole-dp")
        assert not {"--chunked-prefill-size", "--max-total-tokens", "--dsa-decode-backend"} & {*flags}
        given = json.loads(machine.setting(case))
        pruned = {"canary": "sample", "stock_decode_graphs": False}
        assert given == {"preset": name.split("-")[2], **pruned} and from_mapping(given)
        assert machine.server_env(case, True).keys() == {"HF_HUB_OFFLINE", "SGLANG_HISA", *whole.GPU_ENV}


def test_as_many_layers_as_fit_are_served(tmp_path: Path) -> None:
    machine = whole.Big(False, {}, tmp_path, tmp_path, print, gpu_mib=81559)
    layers = {
        name: json.loads((machine.write_model(case, tmp_path / name) / "config.json").read_text())[
            "num_hidden_layers"
        ]
        for name, case in whole.cases(8).items()
        if name.endswith("paper")
    }
    assert layers == {"whole-tp8-paper": 32, "whole-dp8-paper": 25, "whole-pd8-paper": 20}


def test_loads_prune_what_they_are_to_show() -> None:
    """By the presets' own rules: the first chunks of the prefix and the decode steps are beyond the budget;
    and all of it fits the cache."""
    from sglang_hisa.budget import Rule

    for preset in whole.PRESETS:
        config = from_mapping({"preset": preset})
        for load in (whole.GPU, whole.GPU_PD):
            share = round(config.decode_fraction * 65536)
            decode = Rule(config.decode_tokens // config.block, share, config.block)
            assert not decode.fits(load.prefix + load.own)
            assert load.prefix > 2 * max(config.prefill_tokens, config.prefill_fraction * load.prefix)
    shared = whole.GPU.prefix + whole.GPU.at_once * (whole.GPU.own + whole.GPU.answer + 64)
    assert shared < whole.PROMPT
    apart = whole.GPU_PD.at_once * (whole.GPU_PD.prefix + whole.GPU_PD.own + whole.GPU_PD.answer + 128)
    assert apart < whole.POOL_PROMPTS * whole.PROMPT


class Server:
    """Answers at once, and tells the receipts of ``ranks`` (by number) when it is asked for its own."""

    ranks: ClassVar[dict[int, dict[str, Any]]] = {}
    started: ClassVar[list[Server]] = []

    def __init__(self, flags: list[str], *, env: dict[str, str], log: Path) -> None:
        self.flags, self.env, self.log = flags, env, log
        self.prompts: list[tuple[int, int, Any]] = []
        Server.started.append(self)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait_ready(self, timeout: float, progress: Any, every: float) -> float:
        return 9.6

    def generate(self, tokens: list[int], count: int, **fields: Any) -> dict[str, Any]:
        self.prompts.append((len(tokens), tokens[-1], fields.get("routed_dp_rank")))
        return {"output_ids": list(range(count)), "meta_info": {}}

    def request(self, path: str) -> Any:
        return {"max_total_num_tokens": 4096}

    def receipts(self) -> list[dict[str, Any]]:
        base = {"active": True, "preset": "paper", "canary": {"checks": 7}, "layers": 3}
        rows = {phase: {"rows": 9, "candidate_share": 0.5} for phase in pd.MODES}
        for rank, more in self.ranks.items():
            told = Path(self.env["RECEIPTS"]) / f"{rank}.json"
            told.write_text(json.dumps({**base, "rows": rows, **more}))
        return [{**base, "rows": rows}]


def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: dict[int, Any], *cases: str) -> Any:
    """Exit code, and rows by case."""
    Server.started = []
    for module in (case_run, pd, whole):
        monkeypatch.setattr(module, "ServerProcess", type("Other", (Server,), {"ranks": ranks}))
    monkeypatch.setattr(whole, "every_rank", lambda *args: every_rank(*args, patience=0.2))
    out = tmp_path / "rows.json"
    words = [
        "--cpu",
        "--gpus",
        "2",
        "--whole",
        "tests/plugins/receipts",
        "--out",
        str(out),
        "--cases",
        *cases,
    ]
    code = acceptance.main(words)
    return code, {row["case"]: row for row in json.loads(out.read_text())["rows"]}


every_rank = whole.every_rank


def test_every_rank_is_asked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("whole-tp2-paper", "whole-dp2-paper", "whole-pd2-paper")
    code, rows = call(tmp_path, monkeypatch, {0: {}, 1: {}}, *names)
    assert code == 0 and [row["problems"] for row in rows.values()] == [[]] * 3
    tp, dp, prefill, decode = Server.started
    facts = [rows[name]["facts"] for name in names]
    assert [len(one.get("ranks", ())) for one in facts] == [2, 2, 0]
    assert facts[2]["prefill"]["candidate_share"]["prefill"] == 0.5 and "decode" in facts[2]
    load = whole.CPU
    assert tp.prompts[0][0] == load.prefix and {one[0] for one in tp.prompts[1:]} == {load.prefix + load.own}
    assert len(tp.prompts) == facts[0]["requests"] == 1 + load.at_once
    assert sorted(one[2] for one in dp.prompts) == [0] * (1 + load.at_once) + [1] * (1 + load.at_once)
    assert dp.flags[dp.flags.index("--chunked-prefill-size") + 1] == "512", "SGLang divides it by the ranks"
    assert (
        sorted(prefill.prompts) == sorted(decode.prompts)
        and prefill.env["RECEIPTS"] != decode.env["RECEIPTS"]
    )
    assert all(one.env["PYTHONPATH"].endswith("tests/plugins/receipts") for one in Server.started)


def test_a_rank_that_pruned_nothing_fails_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = {"rows": {phase: {"rows": 9, "candidate_share": 1.0} for phase in pd.MODES}}
    code, rows = call(tmp_path, monkeypatch, {0: {}, 1: idle}, "whole-dp2-paper")
    assert code == 1 and rows["whole-dp2-paper"]["problems"] == [
        f"rank 1: {phase}: no row was pruned" for phase in pd.MODES
    ]
    code, rows = call(tmp_path, monkeypatch, {0: {}}, "whole-dp2-paper")
    assert code == 1 and rows["whole-dp2-paper"]["problems"] == ["rank 1: no active receipt"]
    assert rows["whole-dp2-paper"]["facts"]["ranks"][1]["layers"] == 0
    code, rows = call(tmp_path, monkeypatch, {0: {}, 1: {}}, "whole-dp2-paper", "--missing")
    assert code == 0 and not rows["whole-dp2-paper"]["problems"] and len(Server.started) == 1
    code, rows = call(tmp_path, monkeypatch, {}, "whole-dp2-paper", "--missing")
    assert code == 0 and not Server.started, "what is right is not asked again"


def test_rows_that_do_not_exist_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        call(tmp_path, monkeypatch, {}, "whole-tp8-paper")
    assert "no such case: whole-tp8-paper; allowed: whole-tp2-balanced" in capsys.readouterr().err
