"""An A/B that was cut off goes on: what is kept, what is measured, what is refused."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_hisa.launch.ab import plan, resume, runner, scoring, validity
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common import logs
from sglang_hisa.launch.common.arms import parse_arms


class Generator:
    """A load generator whose ``last`` load is followed by Ctrl-C, and a server with a radix cache."""

    def __init__(self, last: int = 10**9) -> None:
        self.loads: list[tuple[str, int]] = []
        """URL and requests of each."""
        self.held: list[bool] = []
        self.last = last
        self.prefix: dict[str, int] = {}
        self.read = 0
        """Tokens of shared prefixes that were not in the cache."""

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(
        self,
        flags: Sequence[str],
        fresh: str = "",
        prefix: tuple[str, int] | None = None,
        hold: bool = False,
    ) -> dict[str, Any]:
        if len(self.loads) == self.last:
            raise KeyboardInterrupt
        of = dict(pairwise(flags))
        n, own, out = (int(of[f"--{x}"]) for x in ("num-prompts", "random-input-len", "random-output-len"))
        url, size = of["--base-url"], prefix[1] if prefix else 0
        if "--flush-cache" in flags:
            self.prefix.pop(url, None)
        self.loads.append((url, n))
        self.held.append(hold)
        cached = min(self.prefix.get(url, 0), size)
        self.prefix[url] = max(self.prefix.get(url, 0), size)
        self.read += size - cached
        return {
            **{"completed": n, "errors": [""] * n, "input_lens": [size + own] * n, "output_lens": [out] * n},
            **{"ttfts": [0.1] * n, "itls": [[0.01] * (out - 1)] * n, "cached_tokens": [cached] * n},
            **{"output_throughput": 1.0, "total_throughput": 1.0, "duration": 1.0, "start_times": [0.0] * n},
        }


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runner of three rounds and two cells whose servers are always ready."""

    starts = count()

    @contextmanager
    def server(self: Any, arm: Any) -> Iterator[Any]:
        yield SimpleNamespace(
            url=f"{arm.name} {next(starts)}",
            log=tmp_path / "log",
            exit_code=lambda: None,
            receipts=list,
            tail=str,
        )

    (tmp_path / "log").write_text("")
    monkeypatch.setattr(runner.Runner, "_server", server)
    seen: list[tuple[str, Any]] = []
    """Arm and the baseline's ``/server_info`` of each start."""

    def started(arm: Any, servers: Any, arms: Any, baseline: Any, *_: Any) -> Any:
        arms[arm.name] = replace(arms[arm.name], starts_s=(*arms[arm.name].starts_s, 9.0))
        seen.append((arm.name, baseline))
        return {"tp_size": 8}, []

    monkeypatch.setattr(runner, "started", started)
    monkeypatch.setattr(runner.Runner, "_compare", lambda *_: None)

    def make(
        generator: Generator,
        together: bool,
        earlier: AbRecord | None = None,
        cells: str = "128+64:4,1",
        asked: bool = False,
    ) -> runner.Runner:
        seen.clear()
        monkeypatch.setattr(runner, "Client", lambda *_: generator)
        arms = parse_arms("stock,paper")
        made = runner.Runner(
            plan=plan.Plan(arms, plan.parse_cells(cells, 40, 1), 3, together, 7, 1000, 0.05),
            model="m",
            flags=["--tp", "1"],
            make_env=lambda setting: {},
            folder=tmp_path,
            save=lambda record: json.dumps(record.as_json()),
            tell=lambda line: None,
            prompts=["a question"] if asked else [],
            earlier=earlier,
        )
        made.seen = seen
        return made

    return make


def test_the_servers_own_rate_is_read_from_its_log() -> None:
    """The first line has the prefill in its time, and lines of other batches are other loads."""
    line = "[06:50:29 TP0] Decode batch, #running-req: {}, #token: 9, gen throughput (token/s): {}, #queue"
    rates = [(3, 9.5), (4, 100.0), (4, 400.5), (4, 402.0), (14, 1.0), (1, 2.0)]
    text = "\n".join(line.format(*one) for one in rates)
    assert logs.decoded(text, 4) == 400.5 and logs.decoded(text, 3) is None


@pytest.mark.parametrize(
    ("form", "env", "urls", "spread"),
    [
        ("dummy", {}, None, True),
        ("auto", {}, None, False),
        ("dummy", {"SGLANG_HISA_DUMMY": "plain"}, None, False),
        ("dummy", {}, {"stock": "http://127.0.0.1:1"}, False),
    ],
)
def test_a_record_says_whether_made_up_scores_differ(
    form: str, env: dict[str, str], urls: dict[str, str] | None, spread: bool, tmp_path: Path
) -> None:
    """Unless the user said otherwise, and not of servers that were found running."""
    made = runner.Runner(
        plan=plan.Plan(parse_arms("stock,paper"), plan.parse_cells("9:1", 4, 1), 1, True, 7, 1000, 0.05),
        model="m",
        flags=["--load-format", form],
        make_env=lambda setting: env,
        folder=tmp_path,
        save=lambda record: None,
        tell=lambda line: None,
        urls=urls,
    )
    assert made.record.spread is spread


def places(record: AbRecord) -> list[tuple[int, int, str]]:
    return [(one.round, one.cell, one.arm) for one in record.measurements]


@pytest.mark.parametrize(("together", "asked"), [(True, False), (True, True), (False, True)])
def test_a_run_that_was_cut_off_goes_on_with_whole_pairs(
    make: Any, together: bool, asked: bool, tmp_path: Path
) -> None:
    """The 12th load (warm-up and measurement of a cell) is not sent: five measurements are kept."""
    first = make(Generator(last=11), together)
    make = functools.partial(make, asked=asked)
    assert first.run() == 130 and not first.record.complete
    assert len(first.record.measurements) == 5
    first.record.save(tmp_path)
    earlier = AbRecord.load(tmp_path)
    assert earlier == first.record
    generator = Generator()
    second = make(generator, together, earlier)
    pairs = {
        (r, c)
        for r, c, arm in places(earlier)
        if (r, c, {"stock": "paper", "paper": "stock"}[arm]) in places(earlier)
    }
    assert len(pairs) == 2
    assert [one for one in earlier.measurements if (one.round, one.cell) in pairs] == (
        list(second.record.measurements)
    )
    assert second.run() == 0 and second.record.complete and not second.record.refusals
    assert len(generator.loads) == 2 * (12 - 4), "each with the request that brings the prefix"
    assert sorted(places(second.record)) == [
        (r, c, a) for r in range(3) for c in range(2) for a in ("paper", "stock")
    ]
    assert second.record.nonce != earlier.nonce and second.record.resumed == (earlier.provenance.date,)
    assert second.record.arms["stock"].starts_s == (9.0,) * 2
    done = make(Generator(last=0), together, second.record)
    assert done.run() == 0 and done.record.complete, "nothing is left to measure"


def test_a_prefix_is_read_once_although_other_cells_flush_the_cache(make: Any) -> None:
    generator = Generator()
    run = make(generator, True, cells="128+64:4 64:1 128+64:1")
    assert run.run() == 0 and run.record.complete and not run.record.refusals
    assert generator.read == 2 * 128, "once in each arm"
    several = [requests > 1 for _, requests in generator.loads]
    assert generator.held == several and several.count(True) == 6, "four requests, three rounds, two arms"
    found = places(run.record)
    assert len(found) == len(set(found)) == 3 * 3 * 2
    assert found[:4] == [(0, 1, "stock"), (0, 1, "paper"), (1, 1, "paper"), (1, 1, "stock")]


def test_servers_of_others_are_not_paused(make: Any) -> None:
    generator = Generator()
    run = make(generator, True, cells="128+64:4")
    run.urls = {"stock": "http://127.0.0.1:1", "paper": "http://127.0.0.1:2"}
    assert run.run() == 0 and generator.held and not any(generator.held)


def test_an_arm_with_servers_of_its_own_is_not_measured_again(make: Any, tmp_path: Path) -> None:
    """Its servers start for what it lacks only, and are compared with the baseline that was there before."""
    first = make(Generator(last=7), False)
    assert first.run() == 130
    assert places(first.record) == [(0, 0, "stock"), (0, 1, "stock"), (0, 0, "paper")]
    assert json.loads((tmp_path / "baseline.json").read_text()) == {"tp_size": 8}
    stock = replace(first.record.arms["stock"], version="of the first run", log_tail="the end")
    first.record.arms["stock"] = stock
    first.record.save(tmp_path)
    generator = Generator()
    second = make(generator, False, AbRecord.load(tmp_path))
    assert second.record.arms["stock"] == replace(stock, log_tail=None)
    assert second.record.measurements == first.record.measurements
    assert second.run() == 0 and second.record.complete
    assert len(generator.loads) == 2 * (12 - 3) and generator.loads[0][0].startswith("paper ")
    assert second.record.arms["stock"].version == "of the first run"
    assert second.seen[:2] == [("paper", {"tp_size": 8}), ("stock", {"tp_size": 8})]


def test_another_plan_machine_or_code_is_refused(make: Any) -> None:
    run = make(Generator(), True)
    assert run.run() == 0
    for change, why in (
        ({"plan": replace(run.record.plan, seed=8, alpha=0.1)}, r"seed 8 \(now 7\); alpha 0.1 \(now 0.05\)"),
        ({"flags": ("--tp", "2")}, r"flags --tp 2 \(now --tp 1\)"),
        ({"provenance": replace(run.record.provenance, commit="0123")}, "commit 0123"),
        ({"refusals": ("arm paper: no HISA receipt",)}, "no HISA receipt"),
    ):
        with pytest.raises(ValueError, match=f"--resume.*{why}"):
            resume.kept(replace(run.record, **change), run.record)


def test_a_server_that_forgets_the_prefix_is_refused_at_once(make: Any) -> None:
    class Forgetful(Generator):
        def run(self, *args: Any, **named: Any) -> dict[str, Any]:
            self.prefix.clear()
            return super().run(*args, **named)

    run = make(Forgetful(), True)
    assert run.run() == 2 and len(run.record.measurements) == 1
    assert "4 of 4 prompts did not find the shared prefix of 128 tokens" in run.record.refusals[0]


def test_with_drafts_the_last_page_of_a_prefix_is_computed_again(make: Any) -> None:
    """SGLang's radix cache has pairs of tokens then (seen on a CPU: 192 of 256 tokens came from it)."""
    run = make(Generator(), True, cells="256+16:2")
    assert run.run() == 0
    cell = run.record.plan.cells[0]
    one = replace(run.record.measurements[0], cached=(192, 192))
    assert validity.recomputed(["--tp", "8", "--speculative-algorithm", "EAGLE"]) == 64
    assert validity.recomputed(["--speculative-algorithm=EAGLE"]) == 64 and validity.recomputed(["--tp"]) == 0
    assert validity.prefix_problems(one, cell, 64) == []
    assert len(validity.prefix_problems(one, cell)) == 1
    assert len(validity.prefix_problems(replace(one, cached=(192, 128)), cell, 64)) == 1
    drafted = replace(run.record, flags=("--speculative-algorithm", "EAGLE"), measurements=(one,))
    assert validity.load_problems(drafted) == []
    assert len(validity.load_problems(replace(drafted, flags=()))) == 1


@pytest.mark.parametrize("together", [True, False])
def test_free_memory_is_asked_for_before_a_servers_first_load_when_all_are_up(
    make: Any, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, asked = Generator(), []
    mine = make(generator, together, cells="128:1")

    def look(info: Any, env: Any) -> None:
        asked.append((len(generator.loads), *(len(arm.starts_s) for arm in mine.record.arms.values())))

    monkeypatch.setattr(scoring, "gpu_memory", look)
    assert mine.run() == 0
    one_by_one = [(0, 1, 0), (2, 1, 1), (5, 2, 1), (8, 2, 2)]  # a warm-up for each start, and its rounds
    assert asked == ([(0, 1, 1)] * 2 if together else one_by_one)
