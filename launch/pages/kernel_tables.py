"""Tables of the kernel records: indexer layers, stock against HISA."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from sglang_hisa import PAGE
from sglang_hisa.launch.bench.frontier_record import FrontierRecord, FrontierRow
from sglang_hisa.launch.bench.record import KernelRecord, KernelRow
from sglang_hisa.launch.common.text import K, tokens
from sglang_hisa.launch.pages.build import crossed, listed
from sglang_hisa.launch.pages.reader import Parts, newest

GOALS: tuple[tuple[str, int | str, dict[int, float]], ...] = (
    ("decode", 1, {64: 1.3, 128: 1.7, 256: 2.4}),
    ("decode", 16, {64: 3.2, 128: 5.2, 256: 8.0}),
    ("decode", 64, {64: 5.0, 128: 9.0, 256: 15.0}),
    ("prefill", "8K", {32: 3.0, 64: 6.0, 128: 12.0}),
    ("prefill", "L/4", {64: 3.3, 128: 3.8}),
)
"""Phase, rows of a decode step or budget of a prefill chunk, speed-up aimed at by context in K tokens."""


def decode(record: KernelRecord) -> str:
    """Speed-up of a decode layer, budget 8192, by context and batch."""
    rows = [r for r in record.totals("decode") if r.budget == 8 * K]
    return crossed(
        ["context"],
        {context: [tokens(context)] for context in sorted({r.context for r in rows})},
        {batch: f"B={batch}" for batch in sorted({r.size for r in rows})},
        {(r.context, r.size): f"{r.speedup:.2f}× ({r.stock_us:.0f} → {r.hisa_us:.0f})" for r in rows},
    )


def budgets(record: KernelRecord) -> str:
    """A decode layer of 64 rows of 128K by budget."""
    return listed(
        sorted(
            (r for r in record.totals("decode", PAGE) if (r.context, r.size) == (128 * K, 64)),
            key=lambda r: r.budget,
        ),
        ("decode budget", lambda r: tokens(r.budget)),
        ("stock", lambda r: f"{r.stock_us:.0f} µs"),
        ("HISA", lambda r: f"{r.hisa_us:.0f} µs"),
        ("", lambda r: f"{r.speedup:.1f}×"),
    )


def prefill(record: KernelRecord) -> str:
    """Speed-up of a prefill chunk."""
    return listed(
        sorted(record.totals("prefill"), key=lambda r: (r.context, r.size, r.budget, r.group)),
        ("context", lambda r: tokens(r.context)),
        ("rows", lambda r: str(r.size)),
        ("budget", lambda r: tokens(r.budget) + (", pairs" if r.group > 1 else "")),
        ("stock", lambda r: f"{(r.stock_us or 0) / 1000:.2f} ms"),
        ("HISA", lambda r: f"{r.hisa_us / 1000:.2f} ms"),
        ("", lambda r: f"{r.speedup:.2f}×"),
    )


def frontier(record: FrontierRecord) -> str:
    """Speed-up of a prefill layer at 128K by candidates and heads: the fastest way that was measured."""
    rows = [r for r in record.rows if r.context == 128 * K and r.us and r.speedup]
    rows.sort(key=lambda r: r.us or 0, reverse=True)
    return crossed(
        ["candidates"],
        {size: [tokens(size, 128 * K)] for size in sorted({r.tokens for r in rows})},
        {heads: f"{heads} heads" for heads in sorted({r.heads for r in rows}, reverse=True)},
        {(r.tokens, r.heads): f"{r.speedup:.1f}× ({(r.us or 0) / 1000:.2f} ms, {_way(r)})" for r in rows},
    )


def _way(row: FrontierRow) -> str:
    """Rows that share their pages, and blocks other than those of a page."""
    return str(row.group) if row.block == PAGE else f"{row.group}, blocks of {row.block}"


def goals(_: str) -> Parts:
    """What was aimed at beside what each kernel record measured, by block size."""
    records = newest(KernelRecord, "kernels-*")
    lines, columns, cells = {}, {}, {}
    for phase, size, by_context in GOALS:
        for thousands, goal in by_context.items():
            what = f"decode, B={size}" if phase == "decode" else f"prefill, budget {size}"
            lines[aim := (phase, size, thousands * K)] = [what, f"{thousands}K", f"{goal}×"]
            for record, block in product(records.values(), (64, 128)):
                if row := _reached(record.totals(phase, block), size, thousands * K):
                    column = f"{record.origin.gpus[0]}, {record.origin.sglang}, block {block}"
                    columns[column], cells[aim, column] = column, f"{row.speedup:.2f}×"
    return [(crossed(["", "context", "goal"], lines, columns, cells), {**records})]


def _reached(rows: Sequence[KernelRow], size: int | str, context: int) -> KernelRow | None:
    """The row that a goal speaks of; prefill's are of chunks of 8192 rows in pairs."""
    shape = (size, 1) if isinstance(size, int) else (8 * K, 2)
    wanted = (*shape, context, context // 4 if size == "L/4" else 8 * K)
    return next((r for r in rows if (r.size, r.group, r.context, r.budget) == wanted), None)
