"""Tables of ``hisa demo``."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from sglang_hisa.config import Config
from sglang_hisa.launch.cli import presets
from sglang_hisa.launch.common.choices import Answer, Bin, summarise
from sglang_hisa.launch.common.receipts import Receipt
from sglang_hisa.launch.demo.plan import Plan

_READING = """\
Within the budget HISA takes stock's choice, up to ties of equal scores. Past it HISA scores only the share
shown. Layer 0 is the fair comparison: deeper layers read inputs that already differ between the arms. The
weights are random, so this says nothing about answers, and seconds on a CPU say nothing about speed."""

_REQUEST_COLUMNS = ("tokens", "cached, stock", "cached, HISA", "s, stock", "s, HISA")
_SHARE_COLUMNS = ("context, tokens", "rows", "scored", "chosen: layer 0", "all layers")


@dataclass(frozen=True)
class Arm:
    """What one served arm showed: its receipt (None: stock) and its answers, in the plan's order."""

    name: str
    receipt: Receipt | None
    ready_seconds: float
    answers: tuple[Answer, ...]


def _table(title: str, first: str, *others: str, numbers: bool = False) -> Table:
    table = Table(first, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in others:
        table.add_column(name, justify="right" if numbers else "left")
    return table


def _receipt_cells(arm: Arm) -> dict[str, str]:
    ready = f"{arm.ready_seconds:.0f} s"
    if arm.receipt is None:
        return {"HISA active": "no: stock DSA", "ready after": ready}
    receipt = arm.receipt
    cells = dict(zip(presets.HEADERS, presets.row(Config(**receipt.config))))
    steps = ", ".join(f"{count} {phase}" for phase, count in sorted(receipt.hisa_steps.items()))
    return {
        "HISA active": "yes",
        "version": f"{receipt.version}, SGLang {receipt.sglang}",
        "layers": str(receipt.layers),
        **cells,
        "steps run by HISA": steps,
        "graphs with HISA": str(receipt.graphs_with_hisa),
        "page summaries": f"{receipt.summary_bytes / 1024:.0f} KiB",
        "ready after": ready,
    }


def receipts(stock: Arm, hisa: Arm) -> Table:
    """What each server says it runs (``/server_info``)."""
    left, right = _receipt_cells(stock), _receipt_cells(hisa)
    table = _table("Receipts", "", stock.name, hisa.name)
    for name, cell in right.items():
        table.add_row(name, left.get(name, ""), cell)
    return table


def requests(plan: Plan, stock: Arm, hisa: Arm) -> Table:
    """Tokens of each request, and what both arms found in the radix cache."""
    table = _table("Requests, one at a time", "", *_REQUEST_COLUMNS, numbers=True)
    for request, a, b in zip(plan.requests, stock.answers, hisa.answers):
        counts = (a.prompt_tokens, a.cached_tokens, b.cached_tokens)
        table.add_row(request.name, *map(str, counts), f"{a.seconds:.2f}", f"{b.seconds:.2f}")
    return table


def chosen(bins: list[Bin]) -> Table:
    """Share of stock's top-k tokens that HISA chose too."""
    title = "Share of the context that HISA scored, and of stock's top-k tokens that HISA chose too"
    table = _table(title, "phase", *_SHARE_COLUMNS, numbers=True)
    for row in bins:
        shares = (row.scored, row.first_layer, row.all_layers)
        context = f"{row.low + 1} to {row.high}"
        table.add_row(row.phase, context, str(row.rows), *(f"{share:.1%}" for share in shares))
    return table


def show(console: Console, plan: Plan, stock: Arm, hisa: Arm) -> list[Bin]:
    """Print all tables; returns the rows of the last."""
    bins = summarise(list(zip(stock.answers, hisa.answers)), plan.config, plan.edges)
    for table in (receipts(stock, hisa), requests(plan, stock, hisa), chosen(bins)):
        console.print()
        console.print(table)
    console.print(_READING)
    return bins
