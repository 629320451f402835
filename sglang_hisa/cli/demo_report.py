"""Tables of ``hisa demo``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from sglang_hisa.cli import choices
from sglang_hisa.cli.choices import Answer
from sglang_hisa.cli.demo_plan import Plan, describe


@dataclass(frozen=True)
class Arm:
    """What one served arm showed: its receipt (None: stock) and its answers, in the plan's order."""

    name: str
    receipt: dict[str, Any] | None
    ready_seconds: float
    answers: tuple[Answer, ...]


def _left(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", title_style="bold")


def receipts(plan: Plan, arms: list[Arm]) -> Table:
    """What each server says it runs (``/server_info``)."""
    table = _left("receipts", "arm", "HISA active", "layers", "preset", "settings", "HISA steps", "ready")
    for arm in arms:
        ready = f"{arm.ready_seconds:.0f} s"
        if arm.receipt is None:
            table.add_row(arm.name, "no (stock DSA)", "", "", "", "", ready)
            continue
        steps = ", ".join(f"{phase} {count}" for phase, count in sorted(arm.receipt["hisa_steps"].items()))
        if arm.receipt["graphs_with_hisa"]:
            steps += f", graphs {arm.receipt['graphs_with_hisa']}"
        layers = str(arm.receipt["layers"])
        table.add_row(arm.name, "yes", layers, arm.receipt["preset"], describe(plan.config), steps, ready)
    return table


def requests(plan: Plan, stock: Arm, hisa: Arm) -> Table:
    """Tokens of each request, and what both arms found in the radix cache."""
    table = _left("requests, one at a time", "request")
    for name in ("prompt tokens", "cached, stock", "cached, HISA", "seconds, stock", "seconds, HISA"):
        table.add_column(name, justify="right")
    for request, a, b in zip(plan.requests, stock.answers, hisa.answers):
        table.add_row(
            request.name,
            f"{a.prompt_tokens}",
            f"{a.cached_tokens}",
            f"{b.cached_tokens}",
            f"{a.seconds:.2f}",
            f"{b.seconds:.2f}",
        )
    return table


def chosen(bins: list[choices.Bin]) -> Table:
    """Share of stock's top-k tokens that HISA chose too."""
    table = _left("top-k tokens that both arms chose", "phase")
    for name in ("context, tokens", "rows", "scored by HISA", "stock's choice kept"):
        table.add_column(name, justify="right")
    for row in bins:
        context = f"{row.low + 1} to {row.high}"
        table.add_row(row.phase, context, f"{row.rows}", f"{row.scored:.1%}", f"{row.share:.1%}")
    return table


def show(console: Console, plan: Plan, stock: Arm, hisa: Arm) -> list[choices.Bin]:
    """Print all tables; returns the rows of the last."""
    pairs = list(zip(stock.answers, hisa.answers))
    bins = list(choices.summarise(pairs, plan.edges, plan.budgets))
    for table in (receipts(plan, [stock, hisa]), requests(plan, stock, hisa), chosen(bins)):
        console.print()
        console.print(table)
    console.print(
        "\nWithin the budget both arms choose the same tokens. Past it HISA scores only the share shown. The "
        "weights are random, so these\nprompts have no structure for it to find, and layers after the first "
        "read inputs that already differ: a trained model keeps more."
    )
    return bins
