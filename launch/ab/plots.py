"""Plots of an A/B record: latency against context, and a map of the speed-ups."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from sglang_hisa.launch.ab import formatting, stats, steady_rows
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common.figures import legend, literal, png, pyplot, title
from sglang_hisa.launch.common.text import tokens


def _title(figure: Any, record: AbRecord, text: str) -> None:
    marks = [name for name, on in (("REFUSED", record.refusals), ("PARTIAL", not record.complete)) if on]
    title(figure, marks, text, formatting.origin(record))


def _spread(axis: Any, n: int, arm: str, samples: Iterable[tuple[float, Sequence[float]]]) -> None:
    """The ``n``-th arm: medians of each x's seconds, in ms, with bars from the lowest to the highest."""
    points = [
        (x, (middle := statistics.median(s)) * 1e3, (middle - min(s)) * 1e3, (max(s) - middle) * 1e3)
        for x, s in samples
        if s
    ]
    if points:
        x, y, below, above = zip(*sorted(points))
        style = {"color": f"C{n}", "marker": "o", "ms": 4, "capsize": 3}
        axis.errorbar(x, y, yerr=(below, above), label=literal(arm), **style)


def latency(record: AbRecord, metric: str) -> bytes:
    """PNG of ``ttft`` or ``itl`` against context, a panel for each load; bars span the rounds' medians.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    plt = pyplot()
    cells, arms = record.plan.cells, record.plan.arms
    whole = formatting.whole(record)
    loads = sorted({(cells[i].concurrency, cells[i].output_tokens) for i in whole})
    size = (max(6.0, 4.2 * len(loads)), 4.2)
    figure, axes = plt.subplots(1, len(loads), figsize=size, squeeze=False, layout="constrained")
    for axis, load in zip(axes[0], loads):
        members = [i for i in whole if (cells[i].concurrency, cells[i].output_tokens) == load]
        contexts = sorted({cells[i].input_tokens for i in members})
        for n, arm in enumerate(arms):
            shift = 1 + 0.03 * (n - (len(arms) - 1) / 2)  # bars of several arms side by side
            seen = ((i, list(stats.by_round(record, arm, i, metric).values())) for i in members)
            _spread(axis, n, arm, ((cells[i].input_tokens * shift, values) for i, values in seen))
        axis.set(title=f"{load[0]} at once, {load[1]} tokens out", xlabel="prompt (tokens)", ylabel="ms")
        axis.set_xscale("log")
        axis.set_xticks(contexts, [tokens(c) for c in contexts])
        axis.minorticks_off()
        axis.set_xlim(contexts[0] / 1.3, contexts[-1] * 1.3)
        axis.set_ylim(0, 1.12 * axis.get_ylim()[1])  # room above the marks
        axis.grid(alpha=0.25)
    legend(figure)
    shown = formatting.SHOWN[metric]
    _title(figure, record, f"{shown}: median over rounds, bars from lowest to highest round")
    return png(figure)


def speedup(record: AbRecord) -> bytes:
    """PNG map, cells down and arms across, a panel for each metric; log colours centred at 1.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    plt = pyplot()
    found, arms = formatting.comparisons(record), record.plan.others
    whole = formatting.whole(record)
    cells = [record.plan.cells[i] for i in whole]
    logs = [abs(math.log(c.speedup)) for c in found.values() if c.speedup]
    reach = max([math.log(1.1), *logs])
    size = (3.2 + 3 * max(1.0, 0.95 * len(arms)), 1.8 + 0.45 * len(cells))
    figure, axes = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained")
    for axis, (metric, name) in zip(axes, formatting.SHOWN.items()):
        axis.set(title=name, xlim=(-0.5, max(1, len(arms)) - 0.5), ylim=(len(cells) - 0.5, -0.5))
        axis.set_xticks(range(len(arms)), [literal(a) for a in arms], rotation=20)
        axis.set_yticks(range(len(cells)), [formatting.cell(c) for c in cells])
        grid = [
            [math.log(s) if (s := found[arm, i, metric].speedup) else math.nan for arm in arms] for i in whole
        ]
        if arms:
            image = axis.imshow(grid, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
        for i, row in enumerate(grid):
            for n, log in enumerate(row):
                seen = found[arms[n], whole[i], metric].verdict in (stats.FASTER, stats.SLOWER)
                axis.text(
                    n,
                    i,
                    "–" if math.isnan(log) else f"{math.exp(log):.2f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    weight="bold" if seen else "normal",
                    color="white" if abs(log) > 0.65 * reach else "black",
                )
    if arms:
        ticks = [-reach, -reach / 2, 0, reach / 2, reach]
        bar = figure.colorbar(image, ax=axes, ticks=ticks)
        bar.ax.set_yticklabels([f"{math.exp(t):.2f}×" for t in ticks])
    _title(figure, record, f"speed-up over {record.plan.baseline} (bold: a difference was seen)")
    return png(figure)


def steady(record: AbRecord) -> bytes:
    """PNG of the ITL at steady state against the requests at once, a panel for each prompt.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    plt = pyplot()
    cells, arms = record.plan.cells, record.plan.arms
    members = steady_rows.timed(record)
    prompts = {cells[i].prompt: cells[i].input_tokens for i in members}
    names = sorted(prompts, key=prompts.__getitem__)
    size = (max(6.0, 4.2 * len(names)), 4.2)
    figure, axes = plt.subplots(1, len(names), figsize=size, squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names):
        mine = [i for i in members if cells[i].prompt == name]
        for n, arm in enumerate(arms):
            seen = ((i, [one.itl_p50 for one in steady_rows.windows(record, arm, i)]) for i in mine)
            _spread(axis, n, arm, ((cells[i].concurrency, values) for i, values in seen))
        levels = sorted({cells[i].concurrency for i in mine})
        axis.set(title=name, xlabel="requests at once", ylabel="ITL (ms)")
        axis.set_xscale("log", base=2)
        axis.set_xticks(levels, [str(level) for level in levels])
        axis.minorticks_off()
        axis.set_ylim(0, 1.12 * axis.get_ylim()[1])
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, loc="lower right")  # ITL grows with the load, and starts well above 0
    _title(figure, record, "ITL while all requests decode: median over rounds, bars from lowest to highest")
    return png(figure)


def draw(record: AbRecord) -> dict[str, bytes]:
    """All plots, PNG by file name.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    found = {}
    if formatting.whole(record):
        found = {f"{metric}.png": latency(record, metric) for metric in ("ttft", "itl")}
        found["speedup.png"] = speedup(record)
    if steady_rows.timed(record):
        found["steady.png"] = steady(record)
    return found
