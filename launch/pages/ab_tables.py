"""Tables of the records of `hisa ab`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sglang_hisa.config import PRESETS
from sglang_hisa.launch.ab import formatting, stats
from sglang_hisa.launch.ab.plan import Cell
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common import flags
from sglang_hisa.launch.common.text import or_dash, tokens
from sglang_hisa.launch.load import compare
from sglang_hisa.launch.pages.build import listed

LIMIT_S = 0.020
"""ITL of which a table says how many requests at once stay within it."""
MANY = (16, 64, 128)
"""Requests at once of which the headline shows ITL."""
Column = tuple[str, Callable[[int], str]]
"""Its head, and what it says of a cell by its number."""
Row = tuple[AbRecord, str, int]
"""A metric of a record's cell."""


def subject(_: str, record: AbRecord) -> str:
    """The model, its ranks and the baseline where it is not stock: ``v32-4l, TP 2``."""
    model, ranks = Path(record.model).name.removeprefix("model-"), flags.ranks(record)
    against = f" against {record.plan.baseline}" if record.plan.baseline != "stock" else ""
    return model + (f", TP {ranks}" if ranks > 1 else "") + against


def load_of(cell: Cell) -> str:
    """A cell's prompt or shared prefix, and how many at once: ``8K × 4``."""
    return f"{tokens(cell.prefix_tokens or cell.input_tokens)} × {cell.concurrency}"


def headline(prompts: AbRecord, shared: AbRecord) -> str:
    """TTFT of single ``prompts``, and ITL of ``MANY`` requests that share one; a column for each preset.

    Raises:
        ValueError: the two records have other arms.
    """
    if prompts.plan.arms != shared.plan.arms:
        raise ValueError(f"one table of the arms {prompts.plan.arms} and {shared.plan.arms}")
    itl, baseline = stats.STEADY[0], prompts.plan.baseline
    alone, many = prompts.plan.cells, shared.plan.cells
    rows = [(prompts, "ttft", at) for at in _cells(prompts, "ttft") if alone[at].concurrency == 1]
    rows += [(shared, itl, at) for at in _cells(shared, itl) if many[at].concurrency in MANY]

    def what(row: Row) -> str:
        cell = row[0].plan.cells[row[2]]
        token = f"each token of {cell.concurrency} requests that share {tokens(cell.prefix_tokens)}"
        return token if cell.prefix_tokens else f"first token of one prompt of {tokens(cell.input_tokens)}"

    def said(row: Row, arm: str) -> str:
        record, metric, at = row
        form, scale = ("{:.1f} s", 1.0) if metric == "ttft" else ("{:.1f} ms", 1e3)
        median = or_dash(record.median(arm, at, metric), form, scale)
        speedup = None if arm == baseline else record.found(arm, at, metric).speedup
        return median if speedup is None else f"{median} ({speedup:.2f}×)"

    arms = (baseline, *(arm for arm in PRESETS if arm in prompts.plan.others))
    columns = ((_head(prompts, arm), partial(said, arm=arm)) for arm in arms)
    return listed(rows, ("time to", what), *columns)


def medians(record: AbRecord) -> str:
    """The baseline's TTFT and ITL by cell, and each arm's speed-up, bold where a difference was seen.

    A speed-up of too few pairs for an interval stands alone. Cells that the baseline was not measured at are
    left out, and those with a shared prefix: see :func:`many`.
    """
    return listed(
        _cells(record, "ttft"),
        ("prompt × at once", lambda at: load_of(record.plan.cells[at])),
        *_compared(record, "ttft", "TTFT", "{:.2f} s"),
        *_compared(record, "itl", "ITL", "{:.1f} ms", 1e3),
    )


def many(record: AbRecord) -> str:
    """ITL and tokens a second at steady state by shared prefix and load, and how many stay in the limit."""
    itl, rate = stats.STEADY
    made = listed(
        _cells(record, itl),
        ("shared prefix × at once", lambda at: load_of(record.plan.cells[at])),
        *_compared(record, itl, "ITL", "{:.1f} ms", 1e3),
        *(_medians(record, rate, arm, "{:,.0f}", title="tok/s") for arm in record.plan.arms),
    )
    prefixes = Counter(record.plan.cells[at].prefix_tokens for at in _cells(record, itl))
    users = listed(
        sorted(size for size, loads in prefixes.items() if loads > 1),
        (f"requests at once within {LIMIT_S * 1e3:.0f} ms a token", tokens),
        *((_head(record, arm), partial(_users, record, arm)) for arm in record.plan.arms),
    )
    said = "Between two measured loads the ITL is taken to lie on a straight line."
    return "\n\n".join([made, users, said] if made and users else [made])


def _users(record: AbRecord, arm: str, prefix: int) -> str:
    """``105 (2.9×)``: requests at once within ``LIMIT_S``; a bound where no heavier load was measured."""
    cells = enumerate(record.plan.cells)
    loads = sorted((cell.concurrency, at) for at, cell in cells if cell.prefix_tokens == prefix)

    def within(name: str) -> tuple[float, bool] | None:
        itl = [(load, record.median(name, at, stats.STEADY[0])) for load, at in loads]
        return compare.users(itl, LIMIT_S)

    found, base = within(arm), within(record.plan.baseline)
    if found is None:
        return "none"
    bound = "at least " if found[1] else ""
    if base is None or base[1] or arm == record.plan.baseline:
        return f"{bound}{found[0]:.0f}"
    return f"{bound}{found[0]:.0f} ({bound}{found[0] / base[0]:.1f}×)"


def _cells(record: AbRecord, metric: str) -> list[int]:
    """Numbers of the cells that the baseline was measured at, by length and load.

    Of a metric of the steady state, cells with a shared prefix that all arms were measured at; of others,
    those without.
    """
    of, shared = record.plan.cells, metric in stats.STEADY
    arms = record.plan.arms if shared else (record.plan.baseline,)
    mine = (at for at, cell in enumerate(of) if bool(cell.prefix_tokens) == shared)
    seen = (at for at in mine if all(record.median(arm, at, metric) is not None for arm in arms))
    return sorted(seen, key=lambda at: (of[at].input_tokens, of[at].concurrency))


def _head(record: AbRecord, arm: str, title: str = "") -> str:
    """``ITL, stock`` of the baseline; of the arms beside it the name alone."""
    name = "stock" if arm == record.plan.baseline == "stock" else f"`{arm}`"
    return f"{title}, {name}" if title and arm == record.plan.baseline else name


def _medians(record: AbRecord, metric: str, arm: str, form: str, scale: float = 1, title: str = "") -> Column:
    return _head(record, arm, title), lambda at: or_dash(record.median(arm, at, metric), form, scale)


def _compared(record: AbRecord, metric: str, title: str, form: str, scale: float = 1) -> list[Column]:
    """The baseline's medians, and each arm's speed-up."""

    def effect(at: int, arm: str) -> str:
        one = record.found(arm, at, metric)
        text = formatting.speedup(one)
        return f"**{text}**" if one.speedup and one.verdict in (stats.FASTER, stats.SLOWER) else text

    first = _medians(record, metric, record.plan.baseline, form, scale, title)
    return [first, *((f"`{arm}`", partial(effect, arm=arm)) for arm in record.plan.others)]
