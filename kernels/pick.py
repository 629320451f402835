"""Pick: the best-scored blocks of each row become its candidate page table.

One program a row. The k-th largest score is found by a search over the bits of the ordered scores, two
bits a step (three counts packed in one int64 sum), which needs no sort and gives a fixed order of ties:
the earlier block wins. Pages leave in ascending order, so a row that keeps everything keeps its table.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import PAGE


@triton.jit
def _ordered(score):
    """fp32 -> int32 with the same order."""
    bits = score.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _kth_largest(key, k):
    """Largest int32 ``t`` with at least ``k`` keys >= t; key int32 ``[n]``, n <= 2**15, 0 < k <= n."""
    low = k * 0 - 2147483647 - 1
    for step in tl.static_range(16):
        one = low + (1 << (30 - 2 * step))
        two = one + (1 << (30 - 2 * step))
        three = two + (1 << (30 - 2 * step))
        at_least = (
            (key >= one).to(tl.int64)
            + ((key >= two).to(tl.int64) << 20)
            + ((key >= three).to(tl.int64) << 40)
        )
        count = tl.sum(at_least, axis=0)
        enough = (
            ((count & 0xFFFFF) >= k).to(tl.int32)
            + (((count >> 20) & 0xFFFFF) >= k).to(tl.int32)
            + ((count >> 40) >= k).to(tl.int32)
        )
        low += enough << (30 - 2 * step)
    return low


@triton.jit
def pick_row(
    earlier,
    pick,
    length,
    score,
    table,
    physical,
    logical,
    width,
    sink_blocks,
    local_tokens,
    PAGE: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    LOGICAL: tl.constexpr,
):
    """Keep ``pick`` of one row's ``earlier`` blocks; the pointers are the row's own. earlier <= BLOCKS."""
    block = tl.arange(0, BLOCKS)
    inside = block < earlier
    keep = inside
    place = block
    if pick < earlier:
        # .cg: in the fused filter other programs of the same launch wrote these scores.
        value = tl.load(score + block, mask=inside, other=float("-inf"), cache_modifier=".cg")
        forced = (block < sink_blocks) | (block >= tl.maximum(length - local_tokens, 0) // (PAGE * PER_BLOCK))
        key = tl.where(forced, 2147483647, _ordered(value))
        key = tl.where(inside, key, -2147483648)
        threshold = _kth_largest(key, pick)
        above = ((key > threshold) & inside).to(tl.int32)
        tied = ((key == threshold) & inside).to(tl.int32)
        wanted = pick - tl.sum(above, axis=0)
        rank = tl.cumsum((above << 16) + tied, axis=0)
        tied_rank = rank & 0xFFFF
        keep = (above > 0) | ((tied > 0) & (tied_rank <= wanted))
        place = (rank >> 16) + tl.minimum(tied_rank, wanted) - 1
    for part in tl.static_range(PER_BLOCK):
        page = block * PER_BLOCK + part
        to = place * PER_BLOCK + part
        write = keep & (to < width)
        tl.store(physical + to, tl.load(table + page, mask=keep, other=0), mask=write)
        if LOGICAL:
            tl.store(logical + to, page, mask=write)


@triton.jit
def own_block(
    earlier,
    pick,
    length,
    table,
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
    own = (column >= pick * PER_BLOCK) & (page * PAGE < length)
    value = tl.load(table + page, mask=own, other=0)
    tail = (column >= pick * PER_BLOCK) & (column < width)
    tl.store(physical + column, value, mask=tail)
    if LOGICAL:
        tl.store(logical + column, tl.where(own, page, 0), mask=tail)


@triton.jit
def _pick_kernel(
    score_ptr,
    length_ptr,
    pick_ptr,
    table_ptr,
    table_row_ptr,
    physical_ptr,
    logical_ptr,
    score_stride,
    table_stride,
    out_stride,
    width,
    sink_blocks,
    local_tokens,
    PAGE: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
    MAPPED: tl.constexpr,
    LOGICAL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(length_ptr + row)
    earlier = tl.maximum(length - 1, 0) // (PAGE * PER_BLOCK)
    pick = tl.minimum(tl.load(pick_ptr + row), earlier)
    source = row
    if MAPPED:
        source = tl.load(table_row_ptr + row).to(tl.int64)
    table = table_ptr + source * table_stride
    physical = physical_ptr + row * out_stride
    logical = logical_ptr + row * out_stride
    score = score_ptr + row * score_stride
    pick_row(
        earlier,
        pick,
        length,
        score,
        table,
        physical,
        logical,
        width,
        sink_blocks,
        local_tokens,
        PAGE,
        PER_BLOCK,
        BLOCKS,
        LOGICAL,
    )
    own_block(earlier, pick, length, table, physical, logical, width, PAGE, PER_BLOCK, WIDTH, LOGICAL)


def pick_pages(
    scores: torch.Tensor,
    lengths: torch.Tensor,
    picks: torch.Tensor,
    table: torch.Tensor,
    table_rows: torch.Tensor | None,
    pages_per_block: int,
    sink_blocks: int,
    local_tokens: int,
    physical: torch.Tensor,
    logical: torch.Tensor | None,
    backend: str,
) -> None:
    """Write each row's candidate page table, ascending, its own block last, padded with page 0.

    Args:
        scores: fp32 ``[rows, blocks]`` of :func:`coarse_scores`; ties go to the earlier block.
        lengths, picks, table, table_rows: as in :func:`coarse_scores`; ``picks`` must cover the sink
            and local blocks.
        sink_blocks: leading blocks that are always kept.
        local_tokens: the blocks that hold this many tokens before the row's end are always kept.
        physical: int32 ``[rows, width]``, out: physical pages; ``width`` must hold the widest row.
        logical: the same shape, out: logical pages, or None.
    """
    args = (lengths, picks, table, table_rows)
    if backend == "torch":
        reference.pick_pages(
            scores, *args, pages_per_block, sink_blocks, local_tokens, physical, logical
        )
        return
    rows, width = physical.shape
    if not rows:
        return
    blocks = max(16, triton.next_power_of_2(max(1, scores.shape[1])))
    if blocks > 1 << 15:
        raise ValueError(f"{scores.shape[1]} blocks a row are more than the pick kernel takes (32768)")
    _pick_kernel[(rows,)](
        scores,
        lengths,
        picks,
        table,
        lengths if table_rows is None else table_rows,
        physical,
        physical if logical is None else logical,
        scores.stride(0),
        table.stride(0),
        physical.stride(0),
        width,
        sink_blocks,
        local_tokens,
        PAGE=PAGE,
        PER_BLOCK=pages_per_block,
        BLOCKS=blocks,
        WIDTH=max(16, triton.next_power_of_2(width)),
        MAPPED=table_rows is not None,
        LOGICAL=logical is not None,
        num_warps=4 if blocks <= 2048 else 8 if blocks <= 8192 else 16,
    )
