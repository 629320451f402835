"""How a server ended, and whether it pruned: in words."""

from __future__ import annotations

from typing import Any

from sglang_hisa.launch.common import ends, pruning

WATCHDOG = (
    "[2026-11-29] Subprocess scheduler_0 (pid=77) crashed with exit code -9. Triggering SIGQUIT for cleanup"
    "...\nINFO: Shutting down"
)


def test_a_signal_is_told_by_its_name() -> None:
    assert ends.how(3, "RuntimeError: x") == "exited with code 3" and ends.killed(3) is None
    assert ends.how(-15, "Prefill batch") == "was killed from outside by SIGTERM"
    assert ends.how(-9).startswith("was killed from outside by SIGKILL; `dmesg` says")
    assert ends.how(-64) == "was killed from outside by SIGRTMAX" and "signal 99" in ends.how(-99)


def test_the_signal_of_a_worker_is_what_ended_the_server() -> None:
    """SGLang then ends itself, by a signal of its own or with a code."""
    for code in (-3, -9, 0, 1):
        assert ends.how(code, WATCHDOG).startswith("a worker of it was killed from outside by SIGKILL")
    died = "RuntimeError: Rank 0 scheduler died during initialization (exit code: -11). If exit code is -9"
    assert ends.how(1, died) == "a worker of it was killed from outside by SIGSEGV"


class Dead:
    def exit_code(self) -> int:
        return -9

    def tail(self) -> str:
        return "an unrelated line"


def test_the_end_is_named_once_with_what_a_record_keeps() -> None:
    said, facts = ends.explain(Dead(), "arm paper", OSError("Connection refused"))
    assert said.startswith("arm paper: the server was killed from outside by SIGKILL")
    assert said.endswith("; Connection refused") and facts["log_tail"] == "an unrelated line"
    again, _ = ends.explain(Dead(), "arm paper", OSError(f"the server {ends.how(-9)}\nlog"))
    assert again.count("SIGKILL") == 1


def _rows(context: int, candidates: int, heads: float = 1.0) -> dict[str, Any]:
    one = {"rows": 3, "context_tokens": context, "candidate_tokens": candidates}
    return {"prefill": one, "decode": dict(one), "prefill_heads": heads}


def test_an_arm_that_pruned_nothing_is_named() -> None:
    assert pruning.note("arm x", [_rows(900, 900)]) == (
        "arm x pruned nothing: its rows fit their budgets or were left to stock DSA"
    )
    assert pruning.note("arm x", [_rows(900, 900), _rows(900, 450)]) is None
    assert pruning.shares([_rows(900, 900), _rows(900, 450)]) == {"prefill": 0.75, "decode": 0.75}
    assert pruning.note("stock", None) is None


def test_an_arm_that_saved_heads_alone_is_not_said_to_have_pruned_nothing() -> None:
    """Its rows kept every token, and the longer ones were scored by a quarter of the heads."""
    config = {"prefill_fraction": 1.0, "prefill_heads": 0.25}
    rows = pruning.of_receipts([{"rows": _rows(900, 900), "config": config}])
    wanted = (
        "arm x left out no tokens, but scored its prefill rows beyond prefill_tokens by 0.25 of the index "
        "heads"
    )
    assert pruning.note("arm x", rows) == wanted
    assert pruning.note("arm x", pruning.since([_rows(500, 500, 0.25)], rows)) == wanted
    idle = pruning.since(rows, rows)
    assert (note := pruning.note("arm x", idle)) and "pruned nothing" in note, "no prompt came since"
    assert pruning.note("arm x", [_rows(900, 450, 0.25)]) is None


def test_of_a_server_that_ran_before_only_what_came_since_counts() -> None:
    before, after = [_rows(1000, 500)], [_rows(1900, 1400)]
    assert pruning.note("the server", after) is None
    assert pruning.note("the server", pruning.since(before, after)) is not None
    assert pruning.since(None, after) == after and pruning.since(before, None) is None
