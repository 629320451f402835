"""Tables of the kernel records: indexer layers, stock against HISA."""

from __future__ import annotations

from sglang_hisa.launch.bench.frontier_record import FrontierRecord
from sglang_hisa.launch.bench.record import KernelRecord, KernelRow
from sglang_hisa.launch.common.text import K, table
from sglang_hisa.launch.pages.reader import Reader

NAME, NEWER = "kernels-h100", "kernels-h100-0.5.23"
FRONTIER = "frontier-h200"

GOALS: tuple[tuple[str, int | str, dict[int, float]], ...] = (
    ("decode", 1, {64: 1.3, 128: 1.7, 256: 2.4}),
    ("decode", 16, {64: 3.2, 128: 5.2, 256: 8.0}),
    ("decode", 64, {64: 5.0, 128: 9.0, 256: 15.0}),
    ("prefill", "8K", {32: 3.0, 64: 6.0, 128: 12.0}),
    ("prefill", "L/4", {64: 3.3, 128: 3.8}),
)
"""Phase, rows of a decode step or budget of a prefill chunk, speed-up aimed at by context in K tokens."""


def decode(read: Reader) -> str:
    """Speed-up of a decode layer, budget 8192, by context and batch."""
    rows = {(r.context, r.size): r for r in read(KernelRecord, NAME).totals("decode") if r.budget == 8 * K}
    contexts, batches = (sorted(set(keys)) for keys in zip(*rows))

    def cell(row: KernelRow | None) -> str:
        return f"{row.speedup:.2f}× ({row.stock_us:.0f} → {row.hisa_us:.0f})" if row else ""

    lines = ([f"{c // K}K", *(cell(rows.get((c, b))) for b in batches)] for c in contexts)
    return table(["context", *(f"B={b}" for b in batches)], lines) + "\n\n" + read.source(NAME)


def prefill(read: Reader) -> str:
    """Speed-up of a prefill chunk."""
    rows = read(KernelRecord, NAME).totals("prefill")
    lines = (
        [
            f"{r.context // K}K",
            str(r.size),
            f"{r.budget // K}K" + (", pairs" if r.group > 1 else ""),
            f"{(r.stock_us or 0) / 1000:.2f} ms",
            f"{r.hisa_us / 1000:.2f} ms",
            f"{r.speedup:.2f}×",
        ]
        for r in sorted(rows, key=lambda r: (r.context, r.size, r.budget, r.group))
    )
    return table(["context", "rows", "budget", "stock", "HISA", ""], lines) + "\n\n" + read.source(NAME)


def frontier(read: Reader) -> str:
    """Speed-up of a prefill layer at 128K by candidates and heads: the fastest way that was measured."""
    rows = [r for r in read(FrontierRecord, FRONTIER).rows if r.context == 128 * K and r.speedup]
    heads = sorted({r.heads for r in rows}, reverse=True)

    def cell(tokens: int, count: int) -> str:
        mine = [r for r in rows if (r.tokens, r.heads) == (tokens, count)]
        if not mine:
            return ""
        best = min(mine, key=lambda r: r.us or 0)
        return f"{best.speedup:.1f}× ({(best.us or 0) / 1000:.2f} ms, {best.group})"

    lines = [
        [f"{tokens // K}K" if tokens < 128 * K else "all", *(cell(tokens, count) for count in heads)]
        for tokens in sorted({r.tokens for r in rows})
    ]
    head = ["candidates", *(f"{count} heads" for count in heads)]
    return table(head, lines) + "\n\n" + read.source(FRONTIER)


def goals(read: Reader) -> str:
    """What was aimed at beside what was measured: two block sizes, the newest stock top-k in both arms."""
    record, newer = read(KernelRecord, NAME), read(KernelRecord, NEWER)

    def found(kept: KernelRecord, phase: str, size: int | str, context: int, block: int) -> str:
        shape = (size, 1) if phase == "decode" else (8 * K, 2)
        budget = context // 4 if size == "L/4" else 8 * K
        for r in kept.totals(phase, block):
            if ((r.size, r.group), r.context, r.budget) == (shape, context, budget):
                return f"{r.speedup:.2f}×"
        return "–"

    lines = []
    for phase, size, by_context in GOALS:
        what = f"decode, B={size}" if phase == "decode" else f"prefill, budget {size}"
        for thousands, goal in by_context.items():
            measured = ((record, 64), (record, 128), (newer, 128))
            cells = [found(kept, phase, size, thousands * K, block) for kept, block in measured]
            lines.append([what, f"{thousands}K", f"{goal}×", *cells])
    head = ["", "context", "goal", "block 64", "block 128", "block 128, top-k of 0.5.23"]
    return table(head, lines) + "\n\n" + read.source(NAME, NEWER)
