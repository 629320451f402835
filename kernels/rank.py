"""Pick for few rows: a block's rank is the number of blocks before it in the order, found by counting.

One program would search a row's threshold on one multiprocessor while the others idle. Here many programs
share a row: each compares its own blocks with all of them, and a block's rank gives its place in the table.
Sink blocks come first and local ones last, as in an ascending row: models may boost the tokens at both ends.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_hisa import PAGE
from sglang_hisa.kernels.sizes import cdiv, power_of_2
from sglang_hisa.kernels.tables import block_keys, write_own_block
from sglang_hisa.kernels.tuning import Tuning


@triton.jit
def _keys(score, block, earlier, length, sink_blocks, local_tokens, BLOCK: tl.constexpr):
    """Keys of ``block``, uint32 of its shape."""
    value = tl.load(score + block, mask=block < earlier, other=0.0)
    return block_keys(value, block, earlier, length, sink_blocks, local_tokens, BLOCK)


@triton.jit
def _rank_kernel(
    score_ptr,
    length_ptr,
    pick_ptr,
    table_ptr,
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
    TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    LOGICAL: tl.constexpr,
    OVERLAP: tl.constexpr,
    EARLY: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if OVERLAP and not EARLY:
        gdc_wait()
        gdc_launch_dependents()
    BLOCK: tl.constexpr = PAGE * PER_BLOCK
    length = tl.load(length_ptr + row)
    pick = tl.load(pick_ptr + row)
    earlier = tl.maximum(length - 1, 0) // BLOCK
    pick = tl.minimum(pick, earlier)
    table = table_ptr + row * table_stride
    physical = physical_ptr + row * out_stride
    logical = logical_ptr + row * out_stride
    score = score_ptr + row * score_stride
    first = (tl.program_id(1) - 1) * TILE
    if first < 0:
        if OVERLAP and EARLY:
            gdc_wait()
            gdc_launch_dependents()  # not before, as in the search
        write_own_block(
            table=table,
            length=length,
            earlier=earlier,
            pick=pick,
            physical=physical,
            logical=logical,
            width=width,
            PAGE=PAGE,
            PER_BLOCK=PER_BLOCK,
            WIDTH=WIDTH,
            LOGICAL=LOGICAL,
        )
    elif first < earlier:
        own = first + tl.arange(0, TILE)
        part = tl.arange(0, PER_BLOCK)
        page = own[:, None] * PER_BLOCK + part[None, :]
        found = tl.load(table + page, mask=(own < earlier)[:, None], other=0)
        if OVERLAP and EARLY:
            gdc_wait()
            gdc_launch_dependents()
        rank, place = own, own
        if pick < earlier:
            step = tl.arange(0, CHUNK)
            mine = _keys(score, own, earlier, length, sink_blocks, local_tokens, BLOCK)
            other = _keys(score, step, earlier, length, sink_blocks, local_tokens, BLOCK)
            ahead_of = tl.zeros((TILE, CHUNK), tl.int32)  # summed over threads once, not in each chunk
            for start in range(0, earlier, CHUNK):
                # Loaded while this chunk is compared.
                ahead = _keys(score, start + CHUNK + step, earlier, length, sink_blocks, local_tokens, BLOCK)
                # Of equal keys the earlier block is ahead.
                if start + CHUNK <= first:
                    larger = other[None, :] > (mine - 1)[:, None]
                elif start > first:
                    larger = other[None, :] > mine[:, None]
                else:
                    sooner = (start + step)[None, :] < own[:, None]
                    larger = other[None, :] > mine[:, None] - sooner.to(tl.uint32)
                ahead_of += larger.to(tl.int32)
                other = ahead
            rank = tl.sum(ahead_of, axis=1)
            # Ahead of all others are the sink blocks, fewer than ``earlier`` here, and then the local ones.
            local = tl.minimum(tl.maximum(length - local_tokens, 0) // BLOCK, earlier)
            local = tl.maximum(local, sink_blocks)
            late = tl.where(own >= local, pick - earlier + own, rank - (earlier - local))
            place = tl.where(own < sink_blocks, own, late)
        to = place[:, None] * PER_BLOCK + part[None, :]
        write = ((own < earlier) & (rank < pick))[:, None] & (to < width)
        tl.store(physical + to, found, mask=write)
        if LOGICAL:
            tl.store(logical + to, page, mask=write)


def suits(rows: int, blocks: int, tuning: Tuning) -> bool:
    """Whether a step is small enough: its work grows with the square of ``blocks``, a search's does not."""
    return 0 < rows * blocks * blocks <= tuning.rank_pairs


def rank_pages(
    scores: torch.Tensor,
    lengths: torch.Tensor,
    picks: torch.Tensor,
    table: torch.Tensor,
    pages_per_block: int,
    sink_blocks: int,
    local_tokens: int,
    physical: torch.Tensor,
    logical: torch.Tensor | None,
    *,
    overlap: bool,
    early: bool,
    tuning: Tuning,
) -> None:
    """:func:`sglang_hisa.kernels.pick_pages` of rows with a table row each: the same pages in another order.

    Programs beyond a row's length end at once, so the bound of a graph costs little.
    """
    rows, width = physical.shape
    tile = tuning.rank_tile
    _rank_kernel[(rows, 1 + cdiv(scores.shape[1], tile))](
        scores,
        lengths,
        picks,
        table,
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
        TILE=tile,
        CHUNK=max(tile, min(tuning.rank_chunk, power_of_2(scores.shape[1]))),
        WIDTH=max(16, power_of_2(width)),
        LOGICAL=logical is not None,
        OVERLAP=overlap,
        EARLY=overlap and early,
        num_warps=tuning.rank_warps,
        **({"launch_pdl": True} if overlap else {}),
    )
