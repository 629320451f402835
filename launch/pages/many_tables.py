"""Tables of decode with many requests, of records of `hisa ab` whose prompts share a prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.ab.plan import Cell
from sglang_hisa.launch.ab.record import AbRecord, Comparison
from sglang_hisa.launch.common.text import table, tokens
from sglang_hisa.launch.load import compare
from sglang_hisa.launch.pages.reader import Reader

LIMIT_S = 0.020
"""ITL of which the tables say how many requests at once stay within it."""

Found = Callable[[str, int, str], Comparison]
"""The comparison of an arm, a cell and a metric."""


def of(*names: str) -> Callable[[Reader], str]:
    """A part for each of these records, each with its origin."""

    def tables(read: Reader) -> str:
        parts = []
        for name in names:
            record = read(AbRecord, name)
            parts.append(decode(record.plan.cells, record.plan.baseline, record.plan.others, record.found))
            parts.append(read.source(name))
        return "\n\n".join(parts)

    return tables


def decode(cells: Sequence[Cell], baseline: str, arms: Sequence[str], found: Found) -> str:
    """ITL and tokens a second at steady state by prefix and requests, and how many stay within 20 ms.

    Cells that no arm has a valid window of are left out; bold is a difference that was seen.
    """

    def effect(one: Comparison) -> str:
        if one.speedup is None:
            return "–"
        text = f"{one.speedup:.2f}×" + ("" if one.low is None else f" [{one.low:.2f}, {one.high:.2f}]")
        return f"**{text}**" if one.verdict in (stats.FASTER, stats.SLOWER) else text

    lines = []
    order = sorted(range(len(cells)), key=lambda i: (cells[i].input_tokens, cells[i].concurrency))
    for number in order:
        cell = cells[number]
        itl, rate = ([found(arm, number, metric) for arm in arms] for metric in stats.STEADY)
        if itl[0].baseline_median is None:
            continue
        lines.append(
            [
                f"{tokens(cell.prefix_tokens or cell.input_tokens)} × {cell.concurrency}",
                f"{itl[0].baseline_median * 1e3:.1f} ms",
                *map(effect, itl),
                f"{rate[0].baseline_median:,.0f}",
                *("–" if one.arm_median is None else f"{one.arm_median:,.0f}" for one in rate),
            ]
        )
    names = [f"`{arm}`" for arm in arms]
    shared = "shared prefix" if any(cell.prefix_tokens for cell in cells) else "prompt"
    head = [f"{shared} × at once", f"ITL, {baseline}", *names, f"tok/s, {baseline}", *names]
    return "\n\n".join(filter(None, (table(head, lines), users(cells, baseline, arms, found))))


def users(cells: Sequence[Cell], baseline: str, arms: Sequence[str], found: Found) -> str:
    """Requests at once within ``LIMIT_S``, a row for each prefix that was measured at several loads."""
    lines = []
    for size in sorted({cell.prefix_tokens for cell in cells if cell.prefix_tokens}):
        mine = [i for i, cell in enumerate(cells) if cell.prefix_tokens == size]
        mine.sort(key=lambda i: cells[i].concurrency)
        if len(mine) < 2:
            continue
        base = compare.users(_points(cells, mine, found, arms[0], "baseline_median"), LIMIT_S)
        parts = [_count(base, None)]
        for arm in arms:
            parts.append(_count(compare.users(_points(cells, mine, found, arm, "arm_median"), LIMIT_S), base))
        lines.append([tokens(size), *parts])
    if not lines:
        return ""
    head = [
        f"requests at once within {LIMIT_S * 1e3:.0f} ms a token",
        baseline,
        *(f"`{arm}`" for arm in arms),
    ]
    said = "Between two measured loads the ITL is taken to lie on a straight line."
    return f"{table(head, lines)}\n\n{said}"


def _points(
    cells: Sequence[Cell], mine: Sequence[int], found: Found, arm: str, whose: str
) -> list[tuple[float, float | None]]:
    """Loads and steady ITLs as :func:`compare.users` reads them."""
    return [(cells[i].concurrency, getattr(found(arm, i, stats.STEADY[0]), whose)) for i in mine]


def _count(found: tuple[float, bool] | None, base: tuple[float, bool] | None) -> str:
    """``105 (2.9×)``; of a load that none above was measured, a bound."""
    if found is None:
        return "none"
    text = f"{'at least ' if found[1] else ''}{found[0]:.0f}"
    if base is None or base[1]:
        return text
    return f"{text} ({'at least ' if found[1] else ''}{found[0] / base[0]:.1f}×)"
