"""Tables of the trained model's answers, and of what page summaries keep of stock's choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sglang_hisa.launch.common import record
from sglang_hisa.launch.common.receipts import Phase
from sglang_hisa.launch.common.text import K, table
from sglang_hisa.launch.eval.formatting import SURE
from sglang_hisa.launch.eval.record import Accuracy, EvalRecord
from sglang_hisa.launch.pages.reader import Reader

_PAIRS = {
    "quality-pairs": {"paper": ("paper", 1), "paper2": ("paper", 2)},
    "quality-pairs-4to1": {
        "alone": ("paper-4to1", 1),
        "pairs": ("paper-4to1", 2),
        "alone8": ("paper-4to1, block 64", 1),
        "pairs8": ("paper-4to1, block 64", 2),
    },
}
"""Arms of each record: what they served, and how many prefill rows chose together."""


def answers(name: str, total: bool = False) -> Callable[[Reader], str]:
    """Exact answers of a record by task, context and arm; with ``total``, their sum in a last line."""

    def made(read: Reader) -> str:
        kept = read(EvalRecord, name)
        plan, found = kept.plan, {(r.task, r.context, r.arm): r for r in kept.rows}

        def cell(row: Accuracy) -> str:
            return f"**{row.text}**" if row.arm != plan.baseline and row.p < SURE else row.text

        lines = [
            [task, f"{context // K}K", *(cell(found[task, context, arm]) for arm in plan.arms)]
            for task in plan.tasks
            for context in plan.contexts
        ]
        if total:
            of = [[r for r in kept.rows if r.arm == arm] for arm in plan.arms]
            sums = [(sum(r.accuracy * r.n for r in rows), sum(r.n for r in rows)) for rows in of]
            lines.append(["all", "", *(f"{right:.0f} of {asked}" for right, asked in sums)])
        head = ["task", "context", *(f"`{arm}`" for arm in plan.arms)]
        return table(head, lines) + "\n\n" + read.source(name)

    return made


def pairs(read: Reader) -> str:
    """Answers with prefill rows that choose alone and in pairs, of two records."""
    lines = []
    for name, arms in _PAIRS.items():
        rows = read(EvalRecord, name).rows
        for arm, (setting, group) in arms.items():
            for context in {r.context for r in rows}:
                mine = [r for r in rows if (r.arm, r.context) == (arm, context)]
                lines.append((setting, context, group, sum(r.n for r in mine), sum(r.lost for r in mine)))
    head = ["setting", "context", "`prefill_group`", "questions", "lost against stock"]
    shown = ([f"`{one}`", f"{at // K}K", *map(str, counts)] for one, at, *counts in sorted(lines, key=_order))
    return table(head, shown) + "\n\n" + read.source(*_PAIRS)


def _order(line: tuple[str, int, int, int, int]) -> tuple[str, int, int]:
    return f"`{line[0]}`", line[1], line[2]


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def pruned(read: Reader) -> str:
    """What the arms of the same record pruned, from their receipts."""
    kept = read(EvalRecord, "quality")
    lines = []
    for arm in kept.plan.arms:
        if (receipt := kept.arms[arm].served) is None:
            continue
        prefill, decode = receipt.rows.prefill or Phase(), receipt.rows.decode or Phase()
        rows = [f"{sum(receipt.rows.stock.values()):,}", f"{prefill.rows + decode.rows:,}"]
        shares = [_or_dash(prefill.candidate_share), _or_dash(decode.candidate_share)]
        lines.append(
            [f"`{arm}`", *shares, *rows, _or_dash(receipt.audit.recall), _or_dash(receipt.audit.missed_mass)]
        )
    shares = ["candidate share, prefill", "decode"]
    return table(["arm", *shares, "rows served stock", "rows by HISA", "recall", "missed mass"], lines)


@dataclass(frozen=True, kw_only=True)
class Kept(record.Row):
    """What one summary kept of stock's choice in one layer, with one budget in tokens."""

    variant: str
    budget: int
    layer: int
    bytes_a_page: float
    mass: float
    """Share of stock's score mass."""


@dataclass(frozen=True, kw_only=True)
class RecallRecord(record.Record):
    """Made by ``launch/research/recall.py``."""

    context: int
    budgets: tuple[int, ...]
    rows: tuple[Kept, ...] = ()


_NOW = {"salient mean of 64 (served)": "salient mean of 64"}
"""Names in the record of summaries that are no longer served."""


def recall(read: Reader) -> str:
    """Kept share of stock's score mass by page summary, the smallest and the middle budget, by layer."""
    kept = read(RecallRecord, "recall")
    places = [
        (budget, layer)
        for budget in (kept.budgets[0], kept.budgets[len(kept.budgets) // 2])
        for layer in sorted({row.layer for row in kept.rows})
    ]
    found = {(r.variant, r.budget, r.layer): r for r in kept.rows}
    lines = []
    for name in dict.fromkeys(row.variant for row in kept.rows):
        rows = [found[name, *place] for place in places]
        lines.append(
            [_NOW.get(name, name), f"{rows[0].bytes_a_page:.0f}", *(f"{row.mass:.2f}" for row in rows)]
        )
    of = (f"{budget // K}K of {kept.context // K}K, layer {layer}" for budget, layer in places)
    return table(["summary", "bytes that a page needs", *of], lines) + "\n\n" + read.source("recall")


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
    keys: float
    recall: float
    mass: float
    places: int


@dataclass(frozen=True, kw_only=True)
class HeadsRecord(record.Record):
    """Made by ``launch/research/recall_heads.py``."""

    topk: int
    heads: int
    rows: tuple[KeptBy, ...] = ()


def heads(read: Reader) -> str:
    """Kept share of stock's score mass of rows that answer, by candidates and heads, by arithmetic."""
    kept = read(HeadsRecord, "recall-heads")
    rows = [
        row
        for row in kept.rows
        if row.kind == "answer" and row.router == "weight" and not row.coarse_heads
        if row.group == (2 if row.tokens < row.context else 1)
    ]
    layers = sorted({row.layer for row in rows})
    found: dict[tuple[float, int, int, int], dict[int, KeptBy]] = {}
    for row in sorted(rows, key=lambda r: (r.arithmetic, r.tokens, r.heads)):
        found.setdefault((row.arithmetic, row.tokens, row.heads, row.rescored), {})[row.layer] = row
    lines = []
    for (arithmetic, tokens, count, rescored), by in found.items():
        words = f"{tokens // K}K" if tokens < by[0].context else "all"
        again = f"best {rescored}" if rescored else ""
        lines.append(
            [words, str(count), again, f"{arithmetic:.2f}", *(f"{by[at].mass:.2f}" for at in layers)]
        )
    head = ["candidates", f"heads of {kept.heads}", "scored again by all", "arithmetic"]
    return table([*head, *(f"layer {at}" for at in layers)], lines) + "\n\n" + read.source("recall-heads")
