"""What a person looks at of a kernel record: a CSV of every row and a plot of the totals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

K = 1024
VERSION = 2
"""Of the records. Schema 2: stage ``pick`` is the choice of pages alone in both phases. In schema 1 that of
prefill had the coarse scores in it; :func:`read` names such a row ``coarse+pick``."""
COLUMNS = (
    "phase",
    "context",
    "batch",
    "rows",
    "heads",
    "budget",
    "block",
    "group",
    "tail",
    "refine",
    "stage",
    "layers",
    "stock_us",
    "stock_p20_us",
    "stock_p80_us",
    "hisa_us",
    "hisa_p20_us",
    "hisa_p80_us",
    "speedup",
    "floor_us",
    "stock_host_us",
    "hisa_host_us",
)


def read(path: Path) -> dict[str, Any]:
    """A record of any schema, in the terms of this one."""
    record: dict[str, Any] = json.loads(path.read_text())
    if record.get("schema_version", 1) < VERSION:
        old = {("prefill", "pick"): "coarse+pick"}
        rows = [{**r, "stage": old.get((r["phase"], r["stage"]), r["stage"])} for r in record["rows"]]
        record = {**record, "schema_version": VERSION, "rows": rows}
    return record


def write_csv(record: dict[str, Any], path: Path) -> None:
    """One line for each row of ``record``; what a row does not have is empty. Times in µs."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(record["rows"])


def totals(record: dict[str, Any], phase: str, block: int = 64) -> list[dict[str, Any]]:
    """Whole layers at the largest head count of the record, all rows pruned, refined by the kernel that a
    server takes, or by the only one that the record has.

    One row for each context, size, budget and group: the last, where a cell was measured more than once.
    """
    rows = [r for r in record["rows"] if r["phase"] == phase and r["stage"] == "total" and r["stock_us"]]
    if not rows:
        return []
    heads = max(r["heads"] for r in rows)
    limit = record.get("settings", {}).get("refine_rows", 0) if phase == "decode" else 0
    alone = len({r["refine"] for r in rows}) == 1
    size = "batch" if phase == "decode" else "rows"

    def served(row: dict[str, Any]) -> bool:
        return alone or row["refine"] == ("triton" if row[size] <= limit else "deepgemm")

    kept = [r for r in rows if (r["heads"], r.get("block", 64)) == (heads, block) and served(r)]
    kept = [r for r in kept if not r.get("tail")]
    return list({(r["context"], r[size], r["budget"], group_of(r)): r for r in kept}.values())


def group_of(row: dict[str, Any]) -> int:
    """Rows that chose together; older records have no such field."""
    group: int = row.get("group", 1)
    return group


def _curve(axis: Any, rows: list[dict[str, Any]], label: str, color: str) -> None:
    rows = sorted(rows, key=lambda r: r["context"])
    x = [r["context"] / K for r in rows]
    for arm, style in (("stock", "--"), ("hisa", "-")):
        y = [r[f"{arm}_us"] for r in rows]
        named = {"label": label} if arm == "hisa" else {}
        axis.plot(x, y, style, color=color, marker="o", markersize=3, **named)
        low, high = ([r[f"{arm}_{p}_us"] for r in rows] for p in ("p20", "p80"))
        axis.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    floor = [(a, r["floor_us"]) for a, r in zip(x, rows) if r["floor_us"]]
    axis.plot([a for a, _ in floor], [b for _, b in floor], ":", color=color, linewidth=1)


def plot(record: dict[str, Any], path: Path) -> None:
    """Time of a layer against context, stock dashed, HISA solid, floor dotted; PNG or SVG by suffix.

    Raises:
        ImportError: matplotlib is missing (``pip install sglang-hisa[bench]``).
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4))
    decode = totals(record, "decode")
    first = min((r["budget"] for r in decode), default=0)
    for i, batch in enumerate(sorted({r["batch"] for r in decode})):
        rows = [r for r in decode if r["batch"] == batch and r["budget"] == first]
        _curve(axes[0], rows, f"B={batch}", f"C{i}")
    axes[0].set_title(f"decode, one layer, budget {first // K}K")

    prefill = totals(record, "prefill")
    if prefill:
        size = max(r["rows"] for r in prefill)
        for i, (budget, group) in enumerate(sorted({(r["budget"], group_of(r)) for r in prefill})):
            rows = [r for r in prefill if (r["rows"], r["budget"], group_of(r)) == (size, budget, group)]
            _curve(axes[1], rows, f"budget {budget // K}K" + (", pairs" if group > 1 else ""), f"C{i}")
        axes[1].set_title(f"prefill, one layer, {size} rows at the end of the context")
    for axis in axes:
        axis.set(xscale="log", yscale="log", xlabel="context (K tokens)", ylabel="µs")
        ticks = sorted({r["context"] // K for r in (decode if axis is axes[0] else prefill)})
        axis.set_xticks(ticks, [str(t) for t in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        handles = axis.get_legend_handles_labels()[0]
        styles: tuple[tuple[str, Any], ...] = (("stock", "--"), ("HISA", "-"), ("floor", ":"))
        handles += [Line2D([], [], color="0.3", linestyle=style, label=name) for name, style in styles]
        axis.legend(handles=handles, fontsize=8)
    where = record["provenance"]
    figure.suptitle(f"{where['gpu']}, SGLang {where['sglang']}, commit {where['commit']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def write(record: dict[str, Any], json_path: Path) -> list[Path]:
    """CSV and PNG beside ``json_path``; the paths written. Without matplotlib there is no PNG."""
    table, picture = json_path.with_suffix(".csv"), json_path.with_suffix(".png")
    write_csv(record, table)
    try:
        plot(record, picture)
    except ImportError:
        return [table]
    return [table, picture]
