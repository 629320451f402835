"""Plots of a live comparison: latencies, throughput and candidate shares of each window."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_hisa.launch.common import figures
from sglang_hisa.launch.live import formatting
from sglang_hisa.launch.live.record import Line, LiveRecord

_PANELS = (
    ("TTFT, median of a window", "ttft_p50_s", "s"),
    ("ITL, median of a window", "itl_p50_s", "s"),
    ("prefill", "prefill_tok_s", "tokens a second"),
    ("context that decode rows scored", "candidates_decode", "share"),
)


def windows(record: LiveRecord, lines: Sequence[Line]) -> bytes:
    """PNG: four panels over the seconds since the start, a line for each arm.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    plt = figures.pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(8.5, 6), squeeze=False, sharex=True, layout="constrained")
    for axis, (name, key, unit) in zip(axes.flat, _PANELS):
        for number, arm in enumerate(record.plan.arms):
            seen = [(line.seconds, getattr(line.arms.get(arm), key, None)) for line in lines]
            if points := [(at, value) for at, value in seen if value is not None]:
                style = {"label": figures.literal(arm), "color": f"C{number}", "ls": ("-", "--")[number % 2]}
                axis.plot(*zip(*points), marker="o", ms=3, **style)
        axis.set(title=name, ylabel=unit)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("seconds since the start")
    figures.legend(figure)
    marks = [] if record.complete else ["PARTIAL"]
    figures.title(figure, marks, formatting.split(record), formatting.origin(record))
    return figures.png(figure)


def draw(record: LiveRecord, lines: Sequence[Line]) -> dict[str, bytes]:
    """All plots, PNG by file name; none without a window. Raises ``ImportError`` without matplotlib."""
    answered = any(one is not None for line in lines for one in line.arms.values())
    return {"windows.png": windows(record, lines)} if answered else {}
