"""A made-up record of a live comparison, and its windows."""

from __future__ import annotations

from typing import Any

from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.live.record import Line, LiveRecord


def window(number: int, speed: float) -> dict[str, Any]:
    """What an arm did in the ``number``-th window of 10 s."""
    return {
        **{"seconds": 10.0, "requests": 4 + number, "aborted": 0, "running": 2, "queued": 0},
        **{"ttft_count": 4, "ttft_p50_s": (1 + 0.1 * number) / speed, "ttft_p95_s": 2.5 / speed},
        **{"itl_count": 90, "itl_p50_s": 0.02, "itl_p95_s": 0.03},
        **{"prefill_tok_s": 9000.0 * speed, "decode_tok_s": 120.0, "cache_hit": 0.25},
        **{"candidates_prefill": None if speed == 1 else 0.4, "candidates_decode": 1 / speed},
        **{"canary_checks": None, "canary_violations": None},
        **{"audit_recall": None, "audit_worst_recall": None},
    }


def make(count: int = 6, **changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record of stock and balanced, and ``count`` windows; balanced gave no answer in the second."""
    speeds = {"stock": 1.0, "balanced": 1.5}
    lines: list[dict[str, Any]] = [
        {"seconds": 10.0 * (n + 1), "arms": {arm: window(n, speed) for arm, speed in speeds.items()}}
        for n in range(count)
    ]
    if count > 1:
        lines[1]["arms"]["balanced"] = None
    arms = {
        arm: {
            **{"setting": None if arm == "stock" else '{"preset": "balanced", "audit": 0.01}'},
            **{"died": None, "totals": window(9, speed), "log_tail": None},
        }
        for arm, speed in speeds.items()
    }
    record = {
        **{"schema_version": 1, "kind": "hisa-ab-live", "complete": True, "stopped_by": "SIGINT"},
        **{"refusals": [], "cut": None, "seconds": 60.0, "model": "org/model", "arms": arms},
        "provenance": {"gpu": "NVIDIA H200", "sglang": "0.5.23", "date": "2026-02-03T00:00:00"},
        "flags": ["--model-path", "org/model", "--tp", "4"],
        "plan": {"arms": list(speeds), "baseline": "stock", "slots": [1, 10], "place": "GPUs 0 and 1"},
        **changes,
    }
    return record, lines


def typed(record: dict[str, Any], lines: list[dict[str, Any]]) -> tuple[LiveRecord, list[Line]]:
    """The JSON of both as their readers have it."""
    return read(LiveRecord, record), [read(Line, line) for line in lines]
