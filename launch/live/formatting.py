"""What every form of a live comparison says the same way: rows of the table, notes, origin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_hisa.launch.common import text
from sglang_hisa.launch.common.ends import how

NONE = "–"
UNPAIRED = "The arms got different requests: there are no pairs, so no verdict. `hisa ab` gives one."


def _time(window: dict[str, Any], name: str) -> str:
    """``median 310 ms, p95 900 ms (12)`` from the buckets of a histogram."""
    median, high, count = (window[f"{name}_{key}"] for key in ("p50_s", "p95_s", "count"))
    if median is None:
        return NONE
    return f"{median * 1e3:,.0f} ms, p95 {high * 1e3:,.0f} ms ({count:,})"


def _rate(window: dict[str, Any], name: str) -> str:
    return NONE if window[name] is None else f"{window[name]:,.1f} tok/s"


def _share(window: dict[str, Any], name: str) -> str:
    return NONE if window[name] is None else f"{window[name]:.1%}"


def _canary(window: dict[str, Any]) -> str:
    if not window["canary_checks"] and not window["canary_violations"]:
        return NONE  # stock, or the canary is off
    return f"{window['canary_violations']:,.0f} of {window['canary_checks']:,.0f}"


def _recall(window: dict[str, Any]) -> str:
    if window["audit_recall"] is None or window["audit_worst_recall"] is None:
        return NONE
    return f"{window['audit_recall']:.3f}, worst layer {window['audit_worst_recall']:.3f}"


ROWS: dict[str, Callable[[dict[str, Any]], str]] = {
    "requests": lambda w: f"{w['requests']:,}" + (f" ({w['aborted']:,} aborted)" if w["aborted"] else ""),
    "running, queued": lambda w: f"{w['running']}, {w['queued']}",
    "TTFT, streamed": lambda w: _time(w, "ttft"),
    "ITL, streamed": lambda w: _time(w, "itl"),
    "prefill": lambda w: _rate(w, "prefill_tok_s"),
    "decode": lambda w: _rate(w, "decode_tok_s"),
    "cache hits": lambda w: _share(w, "cache_hit"),
    "candidates, prefill": lambda w: _share(w, "candidates_prefill"),
    "candidates, decode": lambda w: _share(w, "candidates_decode"),
    "canary violations": _canary,
    "audit recall": _recall,
}


def cell(row: str, window: dict[str, Any] | None) -> str:
    """One value of :data:`ROWS`; a dash where the arm gave no answer."""
    return NONE if window is None else ROWS[row](window)


def line(window: dict[str, Any] | None) -> str:
    """A window in one line, without what is empty."""
    if window is None:
        return "no answer"
    named = ((row, cell(row, window)) for row in ROWS)
    return "; ".join(f"{row} {value}" for row, value in named if value != NONE)


def notes(record: dict[str, Any]) -> list[str]:
    """What a reader must know before any number."""
    found = [f"REFUSED: {why}" for why in record["refusals"]]
    for name, arm in record["arms"].items():
        if arm["died"] is not None:
            code, seconds, busy = (arm["died"][key] for key in ("code", "seconds", "busy"))
            found.append(
                f"arm {name} {how(code, arm.get('log_tail') or '')} after {seconds:.0f} s: the requests on "
                f"it are lost (it last said {busy}); the other arm got the later ones"
            )
    if record["cut"]:
        found.append(f"requests were cut off at the end of --drain-timeout (the arms said {record['cut']})")
    if not record["complete"] and not record["refusals"]:
        found.append(f"PARTIAL ({record['stopped_by'] or 'not ended'})")
    return found


def split(record: dict[str, Any]) -> str:
    """``stock 9 of 10 requests, balanced 1 of 10; the arms on GPUs of their own``."""
    plan = record["plan"]
    part, whole = plan["slots"]
    first, second = plan["arms"]
    return f"{first} {whole - part} of {whole} requests, {second} {part} of {whole}; {plan['place']}"


def origin(record: dict[str, Any]) -> str:
    """One line: model, machine, versions, commit, how long, date."""
    served = "not served" if record["seconds"] is None else f"served for {record['seconds']:,.0f} s"
    return text.origin(record["provenance"], record["model"], served)
