"""docs/quality.md's tables of a record of ``recall --policies``: head and rows, at its second budget."""

from __future__ import annotations

from typing import Any

K = 1024
Row = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


def policies(record: Row) -> Table:
    """Budgets by row and choices used again, against a fixed budget that keeps as many tokens."""
    out: list[list[str]] = []
    for rows in _by_policy(record, "fixed", "adaptive", "reuse"):
        kept = rows["all"]
        tokens = " / ".join(f"{kept[key]:,.0f}" for key in ("tokens_mean", "tokens_p95", "tokens_most"))
        out.append([kept["policy"], tokens, *(_gain(row) for row in rows.values())])
    return ["pages of a row", "tokens kept: mean / p95 / most", *_layers(record)], out


def levels(record: Row) -> Table:
    """Two levels of summaries against one, at the same budget."""
    out: list[list[str]] = []
    for rows in _by_policy(record, "fixed", "two-level"):
        one = rows["all"]
        scored = f"{one['vectors']:.0f}"
        if out:
            scored += f" ({one['vectors'] / float(out[0][1]):.0%})"
        out.append([one["policy"], scored, *(_gain(row) for row in rows.values())])
    return ["super-blocks opened", "summaries a row scores", *_layers(record)], out


def neighbours(record: Row) -> Table:
    """Adjacent rows with the same pages, by layer, and all layers at the largest budget as well."""
    budget = record["budgets"][-1]
    pairs = zip(*(_by_policy(record, "fixed", "neighbours", budget=b) for b in (None, budget)))
    out = [[few["all"]["policy"], *map(_gain, few.values()), _gain(many["all"])] for few, many in pairs]
    last = f"{budget // K}K of {record['context'] // K}K, all layers"
    return ["pages shared by", *_layers(record), last], out


def _by_policy(record: Row, *groups: str, budget: int | None = None) -> list[dict[Any, Row]]:
    """Of each policy of the groups: its rows by layer."""
    budget = budget or record["budgets"][1]
    rows = [r for r in record["rows"] if r["group"] in groups and r["budget"] == budget]
    names = dict.fromkeys(r["policy"] for r in rows)
    return [{r["layer"]: r for r in rows if r["policy"] == name} for name in names]


def _gain(row: Row) -> str:
    """The gain over the fixed budget; bold where its interval leaves zero out."""
    if row["group"] == "fixed":
        return f"keeps {row['mass']:.2f}"
    text = f"{row['gain']:+.3f} ± {row['gain_half_width']:.3f}"
    return f"**{text}**" if abs(row["gain"]) > row["gain_half_width"] else text


def _layers(record: Row) -> list[str]:
    layers = sorted({r["layer"] for r in record["rows"]} - {"all"})
    where = f"{record['budgets'][1] // K}K of {record['context'] // K}K"
    return [*(f"{where}, layer {n}" for n in layers), "all layers"]
