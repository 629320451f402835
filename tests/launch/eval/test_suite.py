"""`hisa eval`: prompts, statistics, and answers of a server that solves a known part of them."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.cli import main
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.eval import client, formatting, report, stats, suite, tasks
from sglang_hisa.launch.eval.record import EvalArm
from tests.launch.ab.json_server import serving
from tests.launch.eval.solver import solve


@pytest.mark.parametrize("task", tasks.TASKS)
def test_prompts_have_their_length_and_answer(task: str) -> None:
    for context in (192, 333, 4099):
        for depth in tasks.DEPTHS:
            sample = tasks.make(task, context, depth, 7)
            text, key = sample.prompt[:-4], sample.prompt[-3:]
            assert len(sample.prompt.encode()) == context and sample.prompt[-4] == "?"
            assert sample.answer == solve(text, key)
            if task != "tracking":
                place = text.index(f"{key}{sample.answer};") / (len(text) - 6)
                assert abs(place - depth) < 24 / context + 0.01
            assert sample == tasks.make(task, context, depth, 7) != tasks.make(task, context, depth, 8)


def test_distractors_are_what_the_task_says() -> None:
    records = {t: len(re.findall(r"[A-Z]{3}\d\d;", tasks.make(t, 2048, 0.5, 1).prompt)) for t in tasks.TASKS}
    assert records["needle"] == 1 and records["multikey-1"] == 4 and records["tracking"] == 4
    assert records["multikey-2"] > 330 and records["multikey-3"] > 330
    assert len(re.findall(r"[A-Z]{6};", tasks.make("tracking", 2048, 0.5, 1).prompt)) == 12
    near = tasks.make("multikey-3", 2048, 0.5, 1).prompt
    key, keys = near[-3:], set(re.findall(r"([A-Z]{3})\d\d;", near))
    assert sum(sum(a != b for a, b in zip(key, other)) == 1 for other in keys) >= 10


@pytest.mark.parametrize(("task", "context"), [("nope", 512), ("needle", 127)])
def test_impossible_prompts_are_refused(task: str, context: int) -> None:
    with pytest.raises(ValueError, match=r"allowed|at least"):
        tasks.make(task, context, 0.5, 1)


def test_intervals_and_p_are_scipys() -> None:
    from scipy.stats import binomtest

    for right, total in ((0, 7), (7, 7), (3, 20), (499, 500)):
        truth = binomtest(right, total).proportion_ci(method="wilson")
        assert stats.wilson(right, total) == pytest.approx((truth.low, truth.high), abs=1e-6)
    for lost, won in ((0, 0), (5, 0), (3, 9), (4, 4)):
        p = binomtest(lost, lost + won).pvalue if lost + won else 1.0
        assert stats.mcnemar(lost, won) == pytest.approx(p)
    with pytest.raises(ValueError, match="nothing"):
        stats.wilson(0, 0)


def _server(blind: bool) -> AbstractContextManager[str]:
    """An OpenAI-compatible server that solves prompts, but for needles in the first half when ``blind``."""

    def answer(path: str, given: dict[str, Any] | None) -> dict[str, Any]:
        if given is None:
            assert path == "/v1/models"
            return {"data": [{"id": "solver"}]}
        assert path == "/v1/completions" and given["model"] == "solver"
        text, key = given["prompt"][:-4], given["prompt"][-3:]
        out = solve(text, key)
        assert given["max_tokens"] == len(out) and given["temperature"] == 0
        if blind and text.index(key) < 0.4 * len(text):
            out = "??"
        return {"choices": [{"text": out}], "usage": {"prompt_tokens": len(given["prompt"])}}

    return serving(answer)


def test_urls_are_asked_and_losses_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with _server(False) as good, _server(True) as bad:
        words = ["eval", good, bad, "--contexts", "256,1k", "--samples", "3", "--out", str(tmp_path)]
        assert main([*words, "--tasks", "needle,tracking"]) == 0
    record = report.load(tmp_path)
    assert record.complete and len(record.answers) == 2 * 2 * 2 * 5 * 3
    rows = {(r.arm, r.task, r.context): r for r in record.rows}
    assert all(row.accuracy == 1 for (arm, _, _), row in rows.items() if arm == good)
    lost = rows[bad, "needle", 1024]
    assert (lost.accuracy, lost.n, lost.lost, lost.won) == (0.6, 15, 6, 0)
    assert lost.p == pytest.approx(2 * 0.5**6)
    cells = stats.by_depth(record.answers, bad, "needle")
    assert [cells[1024, depth] for depth in tasks.DEPTHS] == [0, 0, 1, 1, 1]
    assert record.arms[good].prompt_tokens == {256: 256, 1024: 1024}
    made = {"quality.json", "needle.png", "accuracy.png", "report.html", "report.md", "report.csv"}
    assert {p.name for p in tmp_path.iterdir()} == made
    shown = capsys.readouterr().out
    assert main(["eval", "--from", str(tmp_path)]) == 0 and capsys.readouterr().out == shown
    assert "-6 +0" in shown


def test_a_dead_url_is_an_error(tmp_path: Path) -> None:
    with _server(False) as url:
        pass
    assert main(["eval", url, "--contexts", "256", "--samples", "1", "--out", str(tmp_path)]) == 2
    assert not report.load(tmp_path).complete


def test_an_interrupt_before_the_first_answer_still_shows_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "ask_all", interrupted)
    assert main(["eval", "http://127.0.0.1:9", "--contexts", "256", "--out", str(tmp_path)]) == 130


@pytest.mark.parametrize(
    "words", [[], ["a", "b"], ["http://x", "b"], ["a", "--tasks", "nope"], ["a", "--contexts", "100"]]
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["eval", *words])
    assert stop.value.code == 2 and "usage" in capsys.readouterr().err


class Killed:
    """A server that answers until a signal ends it."""

    def __init__(self, flags: Any, *, env: Any, log: Path) -> None:
        self.url, self.log, self.code = "http://127.0.0.1:9", log, None

    def __enter__(self) -> Killed:
        return self

    def __exit__(self, *given: object) -> None:
        self.code = None  # as a stopped server, which has no exit code any more

    def wait_ready(self, *given: object, **more: object) -> float:
        return 1.0

    def receipts(self) -> list[None]:
        return [None]

    def exit_code(self) -> int | None:
        return -9

    def tail(self) -> str:
        return "one\ntwo\nPrefill batch, #new-seq: 1\nOut of memory? no: an unrelated line"


def test_a_killed_server_is_told_by_its_signal_with_log_and_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "ServerProcess", Killed)
    plan = suite.Plan((Arm("stock", None), Arm("paper", '{"preset": "paper"}')), ("needle",), (256,), 1, 1, 1)
    told: list[str] = []
    run = suite.Run(plan, "m", tmp_path, told.append)
    code = suite.run_arms(run, flags=[], make_env=lambda setting: {}, timeout=1, together=False)
    record = report.load(tmp_path)
    (why,) = record.refusals
    assert code == 1 and not record.complete
    assert why.startswith("arm stock: the server was killed from outside by SIGKILL")
    assert why.endswith(f"its log: {tmp_path / 'server-stock.log'}") and "\n" not in why
    report.print_report(record)
    shown = " ".join(capsys.readouterr().out.split())
    assert "SIGKILL" in shown and "arm stock, end of its log: Prefill batch" in shown
    assert (record.arms["stock"].killed or "").startswith("was killed")


def test_an_arm_that_pruned_nothing_is_named() -> None:
    def arm(candidates: int) -> EvalArm:
        one = {"rows": 1, "context_tokens": 900, "candidate_tokens": candidates}
        return EvalArm(rows=({"prefill": one, "decode": one},))

    plan = suite.Plan((Arm("stock", None),), ("needle",), (256,), 1, 1, 1)
    arms = {"stock": EvalArm(), "idle": arm(900), "busy": arm(300)}
    notes = formatting.notes(suite.Run(plan, "m", Path(), print, complete=True, arms=arms).record())
    assert notes == ["arm idle pruned nothing: its rows fit their budgets or were left to stock DSA"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"error": {"message": "longer than the context"}}, "longer than the context"),
        (
            {"choices": [{"text": "", "finish_reason": "abort"}], "usage": {"prompt_tokens": 256}},
            "the server aborted an answer of a prompt of 256 tokens",
        ),
    ],
)
def test_an_answer_that_is_none_is_no_answer(answer: dict[str, Any], why: str) -> None:
    with serving(lambda path, given: answer) as url, pytest.raises(OSError, match=f"^{why}$"):
        client.complete(url, "m", tasks.make("needle", 256, 0.5, 1))
