"""Tables of the trained model's answers, and of what candidates and heads keep of stock's choice."""

from __future__ import annotations

from functools import partial

from sglang_hisa.launch.common.receipts import Phase
from sglang_hisa.launch.common.text import or_dash, tokens
from sglang_hisa.launch.eval.formatting import SURE
from sglang_hisa.launch.eval.heads_record import HeadsRecord
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
    served = {arm: facts.served for arm, facts in kept.arms.items()}
    share = partial(or_dash, form="{:.2f}")
    return listed(
        [(arm, receipt) for arm in kept.plan.arms if (receipt := served.get(arm))],
        ("arm", lambda r: f"`{r[0]}`"),
        ("candidate share, prefill", lambda r: share((r[1].rows.prefill or Phase()).candidate_share)),
        ("decode", lambda r: share((r[1].rows.decode or Phase()).candidate_share)),
        ("rows served stock", lambda r: f"{sum(r[1].rows.stock.values()):,}"),
        ("rows by HISA", lambda r: f"{sum(phase.rows for phase in r[1].rows.phases.values()):,}"),
        ("recall", lambda r: share(r[1].audit.recall)),
        ("missed mass", lambda r: share(r[1].audit.missed_mass)),
    )


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
        (r.tokens, r.heads): [tokens(r.tokens, context), str(r.heads), f"{r.arithmetic:.2f}"] for r in rows
    }
    layers = {layer: f"layer {layer}" for layer in sorted({r.layer for r in rows})}
    cells = {((r.tokens, r.heads), r.layer): f"{r.mass:.2f}" for r in rows}
    head = [f"candidates of {tokens(context)}", f"heads of {kept.heads}", "arithmetic"]
    return crossed(head, ways, layers, cells)
