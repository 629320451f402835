"""A kernel record for people: a CSV file of all rows and a plot of the totals."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path
from typing import Any

from sglang_hisa.launch.bench.record import KernelRecord, KernelRow
from sglang_hisa.launch.common import figures
from sglang_hisa.launch.common.text import K

COLUMNS = tuple(field.name for field in fields(KernelRow) if field.name != "provenance")


def write_csv(record: KernelRecord, path: Path) -> None:
    """One line for each row of ``record``; what a row does not have is empty. Times in µs."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(vars, record.rows))


def _curve(axis: Any, rows: list[KernelRow], label: str, color: str) -> None:
    rows = sorted(rows, key=lambda r: r.context)
    x = [r.context / K for r in rows]
    stock = [(r.stock_us, r.stock_p20_us, r.stock_p80_us) for r in rows]
    hisa = [(r.hisa_us, r.hisa_p20_us, r.hisa_p80_us) for r in rows]
    for times, style, named in ((stock, "--", {}), (hisa, "-", {"label": label})):
        middle, low, high = zip(*times) if times else ((), (), ())
        axis.plot(x, middle, style, color=color, marker="o", markersize=3, **named)
        axis.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    floor = [(a, r.floor_us) for a, r in zip(x, rows) if r.floor_us]
    axis.plot([a for a, _ in floor], [b for _, b in floor], ":", color=color, linewidth=1)


def plot(record: KernelRecord, path: Path) -> None:
    """Time of a layer against context, stock dashed, HISA solid, floor dotted; PNG or SVG by suffix.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    plt = figures.pyplot()
    from matplotlib.lines import Line2D

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
    decode, prefill = record.totals("decode"), record.totals("prefill")
    first = min((r.budget for r in decode), default=0)
    for i, batch in enumerate(sorted({r.size for r in decode})):
        rows = [r for r in decode if (r.size, r.budget) == (batch, first)]
        _curve(axes[0], rows, f"B={batch}", f"C{i}")
    axes[0].set_title(f"decode, one layer, budget {first // K}K")

    size = max((r.size for r in prefill), default=0)
    for i, (budget, group) in enumerate(sorted({(r.budget, r.group) for r in prefill})):
        rows = [r for r in prefill if (r.size, r.budget, r.group) == (size, budget, group)]
        _curve(
            axes[1], rows, f"budget {budget // K}K" + (f", groups of {group}" if group > 1 else ""), f"C{i}"
        )
    if prefill:
        axes[1].set_title(f"prefill, one layer, {size} rows at the end of the context")
    for axis, shown in zip(axes, (decode, prefill)):
        axis.set(xscale="log", yscale="log", xlabel="context (K tokens)", ylabel="µs")
        ticks = sorted({r.context // K for r in shown})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        handles = axis.get_legend_handles_labels()[0]
        styles: tuple[tuple[str, Any], ...] = (("stock", "--"), ("HISA", "-"), ("floor", ":"))
        handles += [Line2D([], [], color="0.3", linestyle=style, label=name) for name, style in styles]
        axis.legend(handles=handles, fontsize=8)
    where = record.provenance
    figure.suptitle(f"{where.gpu}, SGLang {where.sglang}, commit {where.commit}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def write(record: KernelRecord, json_path: Path) -> list[Path]:
    """CSV and PNG beside ``json_path``; the paths written. Without matplotlib there is no PNG."""
    table, picture = json_path.with_suffix(".csv"), json_path.with_suffix(".png")
    write_csv(record, table)
    try:
        plot(record, picture)
    except ImportError:
        return [table]
    return [table, picture]
