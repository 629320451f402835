"""Plots of a load record: time to first token, and throughput with goodput, against load."""

from __future__ import annotations

from typing import Any

from sglang_hisa.launch.common.figures import legend, literal, png, pyplot, title
from sglang_hisa.launch.load import formatting
from sglang_hisa.launch.load.record import LoadRecord


def _frame(record: LoadRecord, name: str) -> tuple[Any, Any]:
    figure, axis = pyplot().subplots(figsize=(7.5, 4.4), layout="constrained")
    loads, sent = record.plan.sweep.loads, "conversations" if record.plan.conversations else "requests"
    axis.set(xlabel=f"{sent} a second, asked" if record.plan.by_rate else f"{sent} at once")
    axis.set_xscale("log")
    axis.set_xticks(loads, [f"{load:g}" for load in loads])
    axis.minorticks_off()
    axis.set_xlim(min(loads) / 1.2, max(loads) * 1.2)
    axis.grid(alpha=0.25)
    title(
        figure,
        [] if record.complete else ["PARTIAL"],
        f"{name}, {formatting.workload(record)}",
        formatting.origin(record),
    )
    if (knee := record.stats.knee) is not None:
        axis.axvline(knee, color="grey", linestyle=":", label=f"knee: {formatting.load(record, knee)}")
    return figure, axis


def _line(axis: Any, record: LoadRecord, values: list[float | None], **style: Any) -> None:
    seen = [(p.load, v) for p, v in zip(record.stats.points, values) if v is not None]
    if seen:
        axis.plot(*zip(*seen), marker="o", ms=4, **style)


def ttft(record: LoadRecord) -> bytes:
    """PNG: p50 and p99 of the time to first token, and its limit.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    points = record.stats.points
    figure, axis = _frame(record, "time to first token")
    _line(axis, record, [p.ttft.p50 for p in points], label="TTFT p50", color="C0", ls="-")
    _line(axis, record, [p.ttft.p99 for p in points], label="TTFT p99", color="C1", ls=":")
    if "ttft" in record.slo:
        axis.axhline(record.slo["ttft"], color="crimson", linestyle="--", label="limit (SLO)")
    axis.set(ylabel="s")
    axis.set_ylim(bottom=0)
    legend(figure)
    return png(figure)


def throughput(record: LoadRecord) -> bytes:
    """PNG: answered and good requests a second, with output tokens a second as a scale on the right.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    points = record.stats.points
    figure, axis = _frame(record, "throughput and goodput")
    _line(axis, record, [p.requests_s for p in points], label="answered requests", color="C0")
    good = literal(f"good requests ({formatting.slo(record)})")
    _line(axis, record, [p.goodput_s for p in points], label=good, color="C2", linestyle="--")
    axis.set(ylabel="requests a second")
    axis.set_ylim(bottom=0)
    length = record.plan.workload.output_tokens  # exact: answers do not end by themselves
    right = axis.secondary_yaxis("right", functions=(lambda x: x * length, lambda x: x / length))
    right.set_ylabel("output tokens a second")
    legend(figure)
    return png(figure)


def draw(record: LoadRecord) -> dict[str, bytes]:
    """All plots, PNG by file name.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    return {"ttft.png": ttft(record), "throughput.png": throughput(record)}
