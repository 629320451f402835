"""Measured prompts are new to every cache, or the run is refused: with a stand-in for server and storage."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_hisa.launch.ab import plan as ab_plan
from sglang_hisa.launch.ab import quality
from sglang_hisa.launch.ab import runner as ab_run
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common.arms import parse_arms
from sglang_hisa.launch.common.client import Client
from sglang_hisa.launch.common.server import fetch
from sglang_hisa.launch.load import plan as load_plan
from sglang_hisa.launch.load import sweep as load_run
from sglang_hisa.launch.load.points import Request
from sglang_hisa.launch.load.record import LoadRecord, ServerFacts
from tests.launch.ab.json_server import serving

GENERATOR = """
import json, sys, types
ASYNC_REQUEST_FUNCS = {}
get_request = None
DatasetRow = types.SimpleNamespace
class Tokenizer:
    vocab_size = 500
    @staticmethod
    def encode(text):
        return text.split()
def get_dataset(args, tokenizer, model_id=None):
    rows = [list(range(7, 7 + 100)), list(range(9, 9 + 33)), "text", ["turn", "turn"]]
    return [types.SimpleNamespace(prompt=row, prompt_len=len(row)) for row in rows[: 2 if shared() else 4]]
def shared():
    return "--shared" in sys.argv
def calculate_metrics(input_requests, outputs):
    pass
def cli_main():
    rows = get_dataset(None, Tokenizer, "m")
    out = sys.argv[sys.argv.index("--output-file") + 1]
    calculate_metrics(input_requests=rows, outputs=[types.SimpleNamespace(start_time=t) for t in (4.5, 4.75)])
    lens = [[r.prompt_len, r.output_len] if hasattr(r, "output_len") else r.prompt_len for r in rows]
    open(out, "w").write(json.dumps({"prompts": [row.prompt for row in rows], "lens": lens}))
"""


@pytest.fixture
def generator(tmp_path: Path) -> Iterator[Client]:
    """Our process of the load generator, with a stand-in for SGLang's benchmark."""
    folder = tmp_path / "sglang" / "benchmark"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "serving.py").write_text(GENERATOR)
    with Client({**os.environ, "PYTHONPATH": str(tmp_path)}, tmp_path / "client.log") as client:
        yield client


def test_prompts_of_the_users_own_are_sent_as_they_are(generator: Client) -> None:
    found = generator.run([], fresh="one", prompts=[("a b c", 7), ("d", 9)])
    assert (found["prompts"], found["lens"]) == (["a b c", "d"], [[3, 7], [1, 9]])


def test_prompts_share_a_prefix_and_go_on_with_tokens_of_their_own(generator: Client) -> None:
    def prompts(fresh: str, *prefix: object) -> list[list[int]]:
        found = generator.run(["--shared"], fresh=fresh, prefix=prefix)  # type: ignore[arg-type]
        assert found["lens"] == [len(prompt) for prompt in found["prompts"]]
        assert found["start_times"] == [4.5, 4.75]
        kept: list[list[int]] = found["prompts"]
        return kept

    short, long, other = prompts("a", "text", 130), prompts("b", "text", 200), prompts("a", "another", 130)
    assert [len(prompt) for prompt in (*short, *long)] == [230, 163, 300, 233]
    assert short[0][:130] == short[1][:130] == long[0][:130] == long[1][:130] != other[0][:130]
    assert long[0][:200] == long[1][:200], "a longer prefix goes on from the shorter one"
    own = [prompt[size : size + 33] for prompt, size in zip((*short, *long), (130, 130, 200, 200))]
    assert len(set(map(tuple, own))) == 4
    assert [prompt[130:] for prompt in other] == [prompt[130:] for prompt in short]


def test_prompts_begin_with_tokens_of_their_own(generator: Client) -> None:
    found = [generator.run([], fresh=text)["prompts"] for text in ("", "one", "two", "one")]
    plain, one, two, again = found
    assert plain[:2] == [list(range(7, 107)), list(range(9, 42))] and one == again
    for first, second in ((plain, one), (one, two), (plain, two)):
        for number, length in enumerate((100, 33)):
            assert len(second[number]) == length and max(second[number]) < 500
            head = zip(first[number][:64], second[number][:64])
            assert sum(a == b for a, b in head) < 16, "64 random tokens are hardly ever the same"
            assert first[number][64:] == second[number][64:]
        assert second[2:] == ["text", ["turn", "turn"]]
    assert one[0][:33] != one[1]


class Storage:
    """A load generator and a server whose storage keeps every prompt; no flush clears it."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.always = 0
        """Cached tokens of each prompt, whatever was sent."""

    def run(
        self,
        flags: Sequence[str],
        limit_s: float | None = None,
        fresh: str = "",
        prefix: tuple[str, int] | None = None,
        prompts: Sequence[tuple[str, int]] | None = None,
        hold: bool = False,
    ) -> dict[str, Any]:
        of = dict(pairwise(flags))
        size, n = int(of["--random-input-len"]), int(of["--num-prompts"])
        prompts = [f"{of['--seed']} {fresh} {number}" for number in range(n)]
        cached = [size if prompt in self.kept else self.always for prompt in prompts]
        self.kept.update(prompts)
        return {
            **{"completed": n, "errors": [""] * n, "input_lens": [size] * n, "output_lens": [4] * n},
            **{"ttfts": [0.1] * n, "itls": [[0.01] * 3] * n, "cached_tokens": cached},
            **{"output_throughput": 1.0, "total_throughput": 1.0, "duration": 1.0, "start_times": [0.0] * n},
        }

    @contextmanager
    def client(self, *args: Any) -> Iterator[Storage]:
        yield self


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Of every server and load generator of the test."""
    found = Storage()
    for module in (ab_run, load_run):
        monkeypatch.setattr(module, "Client", found.client)
    return found


def compare(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arms: str, flags: list[str] | None = None
) -> tuple[int, AbRecord]:
    """``hisa ab`` of 300 and 100 tokens with servers that are always ready: exit code and record."""

    @contextmanager
    def server(self: Any, arm: Any) -> Iterator[Any]:
        yield SimpleNamespace(
            url="http://127.0.0.1:9", log=folder / "log", exit_code=lambda: None, receipts=list
        )

    (folder / "log").write_text("")
    monkeypatch.setattr(ab_run.Runner, "_server", server)
    monkeypatch.setattr(ab_run, "started", lambda *a: ({}, []))
    cells = ab_plan.parse_cells("300:2 100:1", 4, 1)
    runner = ab_run.Runner(
        plan=ab_plan.Plan(parse_arms(arms), cells, 3, False, 7, 1000, 0.05),
        model="m",
        flags=flags or [],
        make_env=lambda setting: {},
        folder=folder,
        save=lambda record: None,
        tell=lambda line: None,
    )
    return runner.run(), runner.record


STORAGE = ["--enable-hierarchical-cache", "--hicache-storage-backend", "file"]


def test_ab_measures_new_prompts_in_each_run(tmp_path, monkeypatch, storage) -> None:
    """Warm-ups and other rounds leave their prompts in the storage, and so do earlier runs of one seed."""
    for _ in range(2):
        code, record = compare(tmp_path, monkeypatch, "stock,stock,paper", STORAGE)
        assert code == 0 and record.complete and not record.refusals
        assert len(record.measurements) == 3 * 3 * 2
        assert all(one.cached == (0,) * one.requests for one in record.measurements)


def test_ab_gives_the_arms_of_a_pair_the_same_prompts(tmp_path, monkeypatch, storage) -> None:
    """Without a storage: a flush clears the rest, and what differs between arms is not the prompts."""
    sent: dict[str, list[str]] = {}
    plain = storage.run

    def run(flags: Sequence[str], fresh: str = "", **more: Any) -> dict[str, Any]:
        storage.kept.clear()
        found = plain(flags, fresh=fresh, **more)
        sent.setdefault(f"{fresh} {dict(pairwise(flags))['--seed']}", []).append(fresh)
        return found

    monkeypatch.setattr(storage, "run", run)
    code, record = compare(tmp_path, monkeypatch, "stock,paper")
    assert code == 0
    measured = [texts for texts in sent.values() if "warm-up" not in texts[0]]
    assert [len(texts) for texts in measured] == [2] * 6, "three rounds of two cells, each sent to both arms"
    assert all(record.nonce in texts[0] for texts in sent.values())


def test_ab_stops_at_a_prompt_that_a_cache_knew(tmp_path, monkeypatch, storage) -> None:
    storage.always = 128
    code, record = compare(tmp_path, monkeypatch, "stock,paper", STORAGE)
    assert code == 2 and not record.complete and record.stopped_by == "refused"
    assert len(record.measurements) == 1, "no hours are spent on it"
    (why,) = record.refusals
    assert why.startswith(
        "arm stock, round 0, 300 tokens x 2: 2 of 2 prompts were not new: of one, 128 tokens came from a"
    )
    assert "drop --hicache-storage-backend, or give it an empty folder" in why


def load(folder: Path) -> tuple[int, LoadRecord]:
    """``hisa load`` of 300 tokens at two loads: exit code and record."""
    runner = load_run.Runner(
        url="http://127.0.0.1:9",
        server=ServerFacts("0.5.23", "m", "m", None, 4096),
        work=load_plan.Workload("random", 300, 4),
        sweep=load_plan.Sweep("concurrency", (1.0, 2.0), 3, 60, 900, 7),
        slo={},
        env={},
        folder=folder,
        save=lambda record: json.dumps(record.as_json()),
        tell=lambda kept: None,
    )
    return runner.run(), runner.record


def test_load_measures_new_prompts_in_each_run(tmp_path, storage) -> None:
    for _ in range(2):
        code, record = load(tmp_path)
        assert code == 0 and record.complete
        assert [[r.cached for r in point.requests] for point in record.points] == [[0] * 3] * 2


def test_load_stops_at_a_prompt_that_a_cache_knew(tmp_path, storage) -> None:
    storage.always = 256
    code, record = load(tmp_path)
    assert code == 2 and not record.complete and record.points == ()
    assert (record.stopped_by or "").startswith(
        "load 1: 3 of 3 prompts were not new: of one, 256 tokens came from a cache."
    )


def answers(*cached: int | None, error: str | None = None, size: int = 1000) -> list[Request]:
    return [Request(1.0, 0.1, 0.1, 2.0, size, 4, tokens, error) for tokens in cached]


def test_prompts_that_share_a_prefix_are_new_once_a_group() -> None:
    work = load_plan.Workload("shared-prefix", 1000, 4, groups=2, prefix_tokens=700)
    assert load_plan.old_prompts(work, answers(0, 640, 640, 0, 640)) == []
    assert load_plan.old_prompts(work, answers(64, 640, 640, 128)) == [], "words that all prompts begin with"
    assert load_plan.old_prompts(work, answers(0, 640, 960, 640)) == [640]
    assert load_plan.old_prompts(work, answers(960, 960, 960)) == [960, 960]
    failed = answers(0, error="boom")
    assert load_plan.old_prompts(work, failed + answers(0, 640)) == [], "the other may have been first"
    assert load_plan.old_prompts(work, answers(320, 1920, size=2000)) == [1920], "text of more tokens"
    assert load_plan.old_prompts(work, answers(None, None)) == []


def test_of_conversations_the_first_is_new() -> None:
    work = load_plan.Workload("multi-turn", 1000, 4, groups=2, prefix_tokens=700, turns=3)
    assert load_plan.old_prompts(work, answers(0, 960, 1920, 640, 960)) == []
    assert load_plan.old_prompts(work, answers(640, 960, 1920, 640)) == [640]


def test_a_text_workload_has_another_seed_in_each_run() -> None:
    sweep = load_plan.Sweep("rate", (1.0,), 3, 60, 900, 7)
    text = load_plan.Workload("shared-prefix", 1000, 4, prefix_tokens=700)
    seeds = {load_plan.fresh_sweep(text, sweep, nonce).seed for nonce in ("a", "b", "b")}
    assert len(seeds) == 2 and 7 not in seeds and all(0 <= seed < 2**32 - 100 for seed in seeds)
    assert load_plan.fresh_sweep(load_plan.Workload("random", 300, 4), sweep, "a").seed == 7


@pytest.mark.parametrize(("cached", "refused"), [(0, False), (128, True)])
def test_answers_that_are_compared_rest_on_no_cache(cached: int, refused: bool) -> None:
    row = [[-0.1, 5, None]]
    meta = {
        **{"prompt_tokens": 300, "cached_tokens": cached},
        **{"input_top_logprobs": [row], "output_top_logprobs": [row]},
    }

    def answer(path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        return {} if path.startswith("/flush_cache") else {"output_ids": [5], "meta_info": meta}

    with serving(answer) as url:

        def post(path: str, body: Any = None) -> Any:
            return json.loads(fetch(url + path, body))

        server: Any = SimpleNamespace(
            flush_cache=lambda: post("/flush_cache", {}),
            generate=lambda prompt, count, **more: post("/generate", {"text": prompt, **more}),
        )
        shape = quality.Shape(300, 2, 64)
        if refused:
            with pytest.raises(
                ValueError, match="128 of its tokens came from a cache; a flush does not clear"
            ):
                quality.ask(server, "prompt", shape, False)
        assert quality.ask(server, "prompt", shape, False, flush=not refused).prompt_tokens == 300
