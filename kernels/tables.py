"""What both ways to pick pages share: the order of scores, and how a candidate table ends."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def ordered(score):
    """fp32 -> uint32 with the same order."""
    bits = score.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, ~bits, bits ^ -2147483648).to(tl.uint32, bitcast=True)


@triton.jit
def block_keys(value, block, earlier, length, sink_blocks, local_tokens, BLOCK: tl.constexpr):
    """Scores as uint32 keys, 1 at least, 0 from ``earlier`` on; blocks that are always kept are above all.

    Even above CUDA's NaN, whose bits are all ones but for the sign.
    """
    forced = (block < sink_blocks) | (block >= tl.maximum(length - local_tokens, 0) // BLOCK)
    key = tl.minimum(tl.maximum(ordered(value), 1), 0xFFFFFFFE)
    return tl.where(block < earlier, tl.where(forced, 0xFFFFFFFF, key), 0)


@triton.jit
def write_own_block(
    table,
    length,
    earlier,
    pick,
    physical,
    logical,
    width,
    PAGE: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    LOGICAL: tl.constexpr,
):
    """The row's own block comes last, so that one length bounds the row; the rest is the dummy page 0."""
    column = tl.arange(0, WIDTH)
    page = (earlier - pick) * PER_BLOCK + column
    tail = (column >= pick * PER_BLOCK) & (column < width)
    own = tail & (page * PAGE < length)
    tl.store(physical + column, tl.load(table + page, mask=own, other=0), mask=tail)
    if LOGICAL:
        tl.store(logical + column, tl.where(own, page, 0), mask=tail)
