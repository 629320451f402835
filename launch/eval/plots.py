"""Plots of a quality record: the needle map of each arm, and accuracy by length for each task."""

from __future__ import annotations

from typing import Any

from sglang_hisa.launch.common import figures
from sglang_hisa.launch.common.text import tokens as _length
from sglang_hisa.launch.eval import formatting, stats
from sglang_hisa.launch.eval.record import EvalRecord

PANELS = 6
"""Panels side by side."""


def _title(figure: Any, record: EvalRecord, text: str) -> None:
    marks = ["REFUSED"] * bool(record.refusals) + ["PARTIAL"] * (not record.complete)
    figures.title(figure, marks, text, formatting.origin(record))


def _ink(share: float) -> str:
    """A colour that can be read on the map's."""
    return "black" if 0.12 < share < 0.88 else "white"


def needle_map(record: EvalRecord) -> bytes:
    """PNG: depth down, context across, a panel for each arm. Raises ``ImportError`` without matplotlib."""
    plt = figures.pyplot()
    arms = record.plan.arms
    figure, axes = plt.subplots(
        1, len(arms), figsize=(1.2 + 2.9 * len(arms), 3.2), squeeze=False, sharey=True, layout="constrained"
    )
    image = None
    for axis, arm in zip(axes[0], arms):
        cells = stats.by_depth(record.answers, arm, "needle")
        contexts = sorted({context for context, _ in cells})
        depths = sorted({depth for _, depth in cells})
        grid = [[cells.get((c, d), float("nan")) for c in contexts] for d in depths]
        axis.set(title=figures.literal(arm), xlabel="context (tokens)")
        if not grid:
            continue
        image = axis.imshow(grid, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(contexts)), map(_length, contexts))
        axis.set_yticks(range(len(depths)), [f"{d:.0%}" for d in depths])
        for y, line in enumerate(grid):
            for x, share in enumerate(line):
                axis.text(x, y, f"{share:.0%}", ha="center", va="center", fontsize=7, color=_ink(share))
    axes[0][0].set_ylabel("depth of the needle")
    if image is not None:
        figure.colorbar(image, ax=axes, label="accuracy")
    _title(figure, record, "needle found, by its depth and the length of the prompt")
    return figures.png(figure)


def by_length(record: EvalRecord) -> bytes:
    """PNG: accuracy with its interval, a panel for each task. Raises ``ImportError`` without matplotlib."""
    plt = figures.pyplot()
    tasks, arms = record.plan.tasks, record.plan.arms
    wide = min(len(tasks), PANELS)
    lines = -(-len(tasks) // wide)
    size = (2.9 * wide, 3.2 * lines)
    figure, axes = plt.subplots(lines, wide, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    for axis, task in zip(axes.flat, tasks):
        axis.set(title=task, xlabel="context (tokens)", ylim=(-0.03, 1.03), xscale="log")
        for n, arm in enumerate(arms):
            mine = [r for r in record.rows if (r.arm, r.task) == (arm, task)]
            mine.sort(key=lambda r: r.context)
            if not mine:
                continue
            shift = 1 + 0.04 * (n - (len(arms) - 1) / 2)  # intervals of several arms side by side
            middle = [r.accuracy for r in mine]
            below = [r.accuracy - r.ci_low for r in mine]
            bars = [below, [r.ci_high - r.accuracy for r in mine]]
            x, name = [r.context * shift for r in mine], figures.literal(arm)
            axis.errorbar(x, middle, bars, label=name, capsize=2, marker="o", ms=3)
        contexts = record.plan.contexts
        axis.set_xticks(contexts, map(_length, contexts))
        axis.minorticks_off()
    measure = "mean score" if record.plan.scored else "accuracy"
    axes[0][0].set_ylabel(f"{measure} (95 % interval)")
    figures.legend(figure)
    _title(figure, record, f"{measure} by length of the prompt; bars are 95 % intervals")
    return figures.png(figure)


def draw(record: EvalRecord) -> dict[str, bytes]:
    """All plots, PNG by file name. Raises ``ImportError`` without matplotlib."""
    made = {"accuracy.png": by_length(record)}
    if "needle" in record.plan.tasks:
        made["needle.png"] = needle_map(record)
    return made
