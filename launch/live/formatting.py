"""What every form of a live comparison says the same way: rows of the table, notes, origin."""

from __future__ import annotations

from collections.abc import Callable

from sglang_hisa.launch.common import text
from sglang_hisa.launch.common.ends import how
from sglang_hisa.launch.live.record import LiveRecord, Window, Windows

NONE = "–"
UNPAIRED = "The arms got different requests: there are no pairs, so no verdict. `hisa ab` gives one."


def _time(median: float | None, high: float | None, count: int) -> str:
    """``310 ms, p95 900 ms (12)`` from the buckets of a histogram."""
    if median is None or high is None:
        return NONE
    return f"{median * 1e3:,.0f} ms, p95 {high * 1e3:,.0f} ms ({count:,})"


def _told(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)


def _canary(window: Window) -> str:
    if not window.canary_checks and not window.canary_violations:
        return NONE  # stock, or the canary is off
    return f"{window.canary_violations or 0:,.0f} of {window.canary_checks or 0:,.0f}"


def _recall(window: Window) -> str:
    if window.audit_recall is None or window.audit_worst_recall is None:
        return NONE
    return f"{window.audit_recall:.3f}, worst layer {window.audit_worst_recall:.3f}"


ROWS: dict[str, Callable[[Window], str]] = {
    "requests": lambda w: f"{w.requests:,}" + (f" ({w.aborted:,} aborted)" if w.aborted else ""),
    "running, queued": lambda w: f"{w.running}, {w.queued}",
    "TTFT, streamed": lambda w: _time(w.ttft_p50_s, w.ttft_p95_s, w.ttft_count),
    "ITL, streamed": lambda w: _time(w.itl_p50_s, w.itl_p95_s, w.itl_count),
    "prefill": lambda w: _told(w.prefill_tok_s, "{:,.1f} tok/s"),
    "decode": lambda w: _told(w.decode_tok_s, "{:,.1f} tok/s"),
    "cache hits": lambda w: _told(w.cache_hit, "{:.1%}"),
    "candidates, prefill": lambda w: _told(w.candidates_prefill, "{:.1%}"),
    "candidates, decode": lambda w: _told(w.candidates_decode, "{:.1%}"),
    "canary violations": _canary,
    "audit recall": _recall,
}


def cell(row: str, window: Window | None) -> str:
    """One value of :data:`ROWS`; a dash where the arm gave no answer."""
    return NONE if window is None else ROWS[row](window)


def rows(columns: Windows) -> list[tuple[str, ...]]:
    """A row for each of :data:`ROWS` that has a value."""
    lines = [(row, *(cell(row, one) for one in columns.values())) for row in ROWS]
    return [line for line in lines if any(value != NONE for value in line[1:])]


def line(window: Window | None) -> str:
    """A window in one line, without what is empty."""
    if window is None:
        return "no answer"
    named = ((row, cell(row, window)) for row in ROWS)
    return "; ".join(f"{row} {value}" for row, value in named if value != NONE)


def notes(record: LiveRecord) -> list[str]:
    """What a reader must know before any number."""
    found = [f"REFUSED: {why}" for why in record.refusals]
    for name, arm in record.arms.items():
        if (died := arm.died) is not None:
            found.append(
                f"arm {name} {how(died.code, arm.log_tail or '')} after {died.seconds:.0f} s: the requests "
                f"on it are lost (it last said {died.busy}); the other arm got the later ones"
            )
    if record.cut:
        found.append(f"requests were cut off at the end of --drain-timeout (the arms said {record.cut})")
    if not record.complete and not record.refusals:
        found.append(f"PARTIAL ({record.stopped_by or 'not ended'})")
    return found


def split(record: LiveRecord) -> str:
    """``stock 9 of 10 requests, balanced 1 of 10; the arms on GPUs of their own``."""
    (part, whole), (first, second) = record.plan.slots, record.plan.arms
    return f"{first} {whole - part} of {whole} requests, {second} {part} of {whole}; {record.plan.place}"


def origin(record: LiveRecord) -> str:
    """One line: model, machine, versions, commit, how long, date."""
    served = "not served" if record.seconds is None else f"served for {record.seconds:,.0f} s"
    return text.origin(vars(record.provenance), record.model, served)
