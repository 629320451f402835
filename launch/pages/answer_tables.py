"""Tables of the trained model's answers, and of what candidates and heads keep of stock's choice."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_hisa.launch.common import record
from sglang_hisa.launch.common.receipts import Phase
from sglang_hisa.launch.common.text import tokens
from sglang_hisa.launch.eval.formatting import SURE
from sglang_hisa.launch.eval.record import Accuracy, EvalRecord
from sglang_hisa.launch.pages.build import crossed, listed


def answers(kept: EvalRecord) -> str:
    """Exact answers by task, context and arm; bold where those lost against the baseline are not chance."""

    def cell(row: Accuracy) -> str:
        return f"**{row.text}**" if row.arm != kept.plan.baseline and row.p < SURE else row.text

    return crossed(
        ["task", "context"],
        {(task, size): [task, tokens(size)] for task in kept.plan.tasks for size in kept.plan.contexts},
        {arm: f"`{arm}`" for arm in kept.plan.arms},
        {((r.task, r.context), r.arm): cell(r) for r in kept.rows},
    )


def sums(kept: EvalRecord) -> str:
    """Exact answers of all tasks by context and arm, and of all contexts."""
    every = kept.plan.contexts
    parts = {**{tokens(size): (size,) for size in every}, "all": every}
    cells = {}
    for name, contexts in parts.items():
        for arm in kept.plan.arms:
            mine = [r for r in kept.rows if r.arm == arm and r.context in contexts]
            cells[name, arm] = f"{sum(r.accuracy * r.n for r in mine):.0f} of {sum(r.n for r in mine)}"
    lines = {name: [name] for name in parts}
    return crossed(["context"], lines, {arm: f"`{arm}`" for arm in kept.plan.arms}, cells)


def pruned(kept: EvalRecord) -> str:
    """What the arms pruned, from their receipts."""
    receipts = ((arm, kept.arms[arm].served) for arm in kept.plan.arms)
    rows = [
        (arm, receipt, receipt.rows.prefill or Phase(), receipt.rows.decode or Phase())
        for arm, receipt in receipts
        if receipt is not None
    ]
    return listed(
        rows,
        ("arm", lambda r: f"`{r[0]}`"),
        ("candidate share, prefill", lambda r: _or_dash(r[2].candidate_share)),
        ("decode", lambda r: _or_dash(r[3].candidate_share)),
        ("rows served stock", lambda r: f"{sum(r[1].rows.stock.values()):,}"),
        ("rows by HISA", lambda r: f"{r[2].rows + r[3].rows:,}"),
        ("recall", lambda r: _or_dash(r[1].audit.recall)),
        ("missed mass", lambda r: _or_dash(r[1].audit.missed_mass)),
    )


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


@dataclass(frozen=True, kw_only=True)
class KeptBy(record.Row):
    """What a way to choose (``launch/research/heads.py``) keeps of stock's choice in a layer."""

    context: int
    kind: str
    """Rows that predict an answer, ``answer``, or ``other`` ones."""
    layer: int
    tokens: int
    heads: int
    group: int
    router: str
    rescored: int
    coarse_heads: int
    arithmetic: float
    mass: float


@dataclass(frozen=True, kw_only=True)
class HeadsRecord(record.Record):
    """Made by ``launch/research/recall_heads.py``."""

    heads: int
    rows: tuple[KeptBy, ...] = ()


def heads(kept: HeadsRecord) -> str:
    """Kept share of stock's score mass of rows that answer, by candidates and heads, by arithmetic.

    At the record's longest context: rows in pairs, routed by their weights, no token scored twice.
    """
    context = max(r.context for r in kept.rows)
    served = ("answer", "weight", 0, 0)
    rows = [r for r in kept.rows if (r.kind, r.router, r.rescored, r.coarse_heads) == served]
    rows = [r for r in rows if (r.context, r.group) == (context, 2 if r.tokens < context else 1)]
    rows.sort(key=lambda r: (r.arithmetic, r.tokens, r.heads))
    ways = {
        (r.tokens, r.heads): [
            tokens(r.tokens) if r.tokens < context else "all",
            str(r.heads),
            f"{r.arithmetic:.2f}",
        ]
        for r in rows
    }
    layers = {layer: f"layer {layer}" for layer in sorted({r.layer for r in rows})}
    cells = {((r.tokens, r.heads), r.layer): f"{r.mass:.2f}" for r in rows}
    head = [f"candidates of {tokens(context)}", f"heads of {kept.heads}", "arithmetic"]
    return crossed(head, ways, layers, cells)
