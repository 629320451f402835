"""Pick: the best-scored blocks of each row become its candidate page table.

One program a row. The threshold is found by a search over the bits of the ordered scores, which needs no
sort and gives a fixed order of ties: the earlier block wins. Scores are read tile by tile in each step of
the search, so a row costs what its own blocks do, not those of the longest. Pages leave in ascending order,
so a row that keeps everything keeps its table. A few rows go to :mod:`sglang_hisa.kernels.rank` instead.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_hisa import PAGE
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.rank import rank_pages, suits
from sglang_hisa.kernels.sizes import cdiv, power_of_2
from sglang_hisa.kernels.tables import block_keys, write_own_block
from sglang_hisa.kernels.tuning import Tuning, for_device

FEW_ROWS = 256
"""Rows up to which a launch has ``Tuning.pick_warps``, and from then on ``pick_warps_many``."""
MOST_BLOCKS = (1 << 16) - 1
"""Counts and ranks are packed in 16 bits."""


@triton.jit
def _field(low_half, high_half, digit):
    """Count of keys whose digit is ``digit``, out of two sums of four 16-bit fields."""
    return ((tl.where(digit < 4, low_half, high_half) >> ((digit & 3) * 16)) & 0xFFFF).to(tl.int32)


@triton.jit
def _add_pairs(a, b, c, d):
    return a + c, b + d


@triton.jit
def _least_and_most(a, b, c, d):
    return tl.minimum(a, c), tl.maximum(b, d)


@triton.jit
def _keys(
    score,
    score_stride,
    members,
    block,
    earlier,
    length,
    sink_blocks,
    local_tokens,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Keys of ``block``, uint32 of its shape, by the sums of a group of ``members`` <= GROUP rows."""
    value = tl.load(score + block, mask=block < earlier, other=0.0)
    if GROUP > 1:
        for member in range(1, members):
            value += tl.load(score + member * score_stride + block, mask=block < earlier, other=0.0)
    return block_keys(value, block, earlier, length, sink_blocks, local_tokens, BLOCK)


@triton.jit
def _threshold(
    score,
    score_stride,
    members,
    earlier,
    pick,
    length,
    sink_blocks,
    local_tokens,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The key that splits the ``pick`` best blocks from the others, and how many blocks of that key are kept.

    A radix search inside the range of the blocks that are not always kept: each step counts the keys of every
    value of the next three bits (eight 16-bit fields of two int64 sums) and ends at the first exact count.
    ``pick`` < ``earlier``.
    """
    step = tl.arange(0, TILE)
    least = tl.full((TILE,), 0xFFFFFFFF, tl.uint32)
    most = tl.zeros((TILE,), tl.uint32)
    for start in range(0, earlier, TILE):
        key = _keys(
            score,
            score_stride,
            members,
            start + step,
            earlier,
            length,
            sink_blocks,
            local_tokens,
            BLOCK,
            GROUP,
        )
        free = (key > 0) & (key < 0xFFFFFFFF)
        least = tl.where(free, tl.minimum(least, key), least)
        most = tl.where(free, tl.maximum(most, key), most)
    low, high = tl.reduce((least, most), 0, _least_and_most)
    local = tl.maximum(tl.minimum(tl.maximum(length - local_tokens, 0) // BLOCK, earlier), sink_blocks)
    wanted = pick - (sink_blocks + tl.maximum(earlier - local, 0))
    ties = pick
    if wanted <= 0:
        low = tl.full((), 0xFFFFFFFF, tl.uint32)
    # A step counts the keys from ``low`` to ``low + span``: never zero, never those of forced blocks.
    span = high - low
    bits = ((span.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 126).to(tl.int32)
    shift = tl.maximum(bits - 3, 0)
    searching = (wanted > 0).to(tl.int32)
    while searching > 0:
        low_half = tl.zeros((TILE,), tl.int64)
        high_half = tl.zeros((TILE,), tl.int64)
        for start in range(0, earlier, TILE):
            key = _keys(
                score,
                score_stride,
                members,
                start + step,
                earlier,
                length,
                sink_blocks,
                local_tokens,
                BLOCK,
                GROUP,
            )
            digit = (key - low) >> shift.to(tl.uint32)
            one = tl.full((1,), 1, tl.int64) << ((digit & 3) * 16).to(tl.int64)
            counted = key - low <= span
            low_half += tl.where(counted & (digit < 4), one, 0)
            high_half += tl.where(counted & (digit >= 4), one, 0)
        low_sum, high_sum = tl.reduce((low_half, high_half), 0, _add_pairs)
        found = pick * 0
        above = pick * 0
        total = pick * 0
        for index in tl.static_range(8):
            count = _field(low_sum, high_sum, 7 - index)
            here = (total < wanted) & (total + count >= wanted)
            found = tl.where(here, 7 - index, found)
            above = tl.where(here, total, above)
            total += count
        low += found.to(tl.uint32) << shift.to(tl.uint32)
        span = tl.minimum((tl.full((), 1, tl.uint32) << shift.to(tl.uint32)) - 1, high - low)
        wanted -= above
        exact = _field(low_sum, high_sum, found) == wanted
        ties = tl.where(exact, earlier, wanted)
        searching = ((shift > 0) & ~exact).to(tl.int32)
        shift = tl.maximum(shift - 3, 0)
    return low, ties


# Triton compiles anew for each kind (1, multiple of 16) of an integer or address. These gain nothing by it.
ANY_KIND = [
    "length_ptr",
    "pick_ptr",
    "table_row_ptr",
    "table_stride",
    "out_stride",
    "rows",
    "width",
    "sink_blocks",
    "local_tokens",
]


@triton.jit(do_not_specialize=ANY_KIND)
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
    rows,
    width,
    sink_blocks,
    local_tokens,
    PAGE: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    MAPPED: tl.constexpr,
    LOGICAL: tl.constexpr,
    OVERLAP: tl.constexpr,
    EARLY: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * GROUP
    members = tl.minimum(rows - row, GROUP)
    if OVERLAP and not EARLY:
        gdc_wait()
        gdc_launch_dependents()
    BLOCK: tl.constexpr = PAGE * PER_BLOCK
    length = tl.load(length_ptr + row)
    pick = tl.load(pick_ptr + row)
    earlier = tl.maximum(length - 1, 0) // BLOCK
    pick = tl.minimum(pick, earlier)
    source = row
    if MAPPED:
        source = tl.load(table_row_ptr + row).to(tl.int64)
    table = table_ptr + source * table_stride
    physical = physical_ptr + row * out_stride
    logical = logical_ptr + row * out_stride
    score = score_ptr + row * score_stride
    if EARLY:
        # Dependents start after the wait: what they read early was made before the coarse kernel, which does
        # not wait before it lets this one start.
        gdc_wait()
        gdc_launch_dependents()
    step = tl.arange(0, TILE)
    threshold = tl.full((), 0, tl.uint32)
    ties = earlier
    if pick < earlier:
        threshold, ties = _threshold(
            score, score_stride, members, earlier, pick, length, sink_blocks, local_tokens, BLOCK, TILE, GROUP
        )
    above_before = pick * 0
    tied_before = pick * 0
    for start in range(0, earlier, TILE):
        block = start + step
        keep = block < earlier
        place = block
        if pick < earlier:
            key = _keys(
                score, score_stride, members, block, earlier, length, sink_blocks, local_tokens, BLOCK, GROUP
            )
            above = ((key > threshold) & keep).to(tl.int32)
            tied = ((key == threshold) & keep).to(tl.int32)
            rank = tl.cumsum((above << 16) + tied, axis=0)
            tied_rank = tied_before + (rank & 0xFFFF)
            keep = (above > 0) | ((tied > 0) & (tied_rank <= ties))
            place = above_before + (rank >> 16) + tl.minimum(tied_rank, ties) - 1
            counts = tl.sum((above << 16) + tied, axis=0)
            above_before += counts >> 16
            tied_before += counts & 0xFFFF
        for part in tl.static_range(PER_BLOCK):
            page = block * PER_BLOCK + part
            to = place * PER_BLOCK + part
            found = tl.load(table + page, mask=keep, other=0)
            write = keep & (to < width)
            for member in range(0, members if GROUP > 1 else 1):
                tl.store(physical + member * out_stride + to, found, mask=write)
                if LOGICAL:
                    tl.store(logical + member * out_stride + to, page, mask=write)

    for member in range(0, members if GROUP > 1 else 1):
        to = member * out_stride
        write_own_block(
            table=table,
            length=length,
            earlier=earlier,
            pick=pick,
            physical=physical + to,
            logical=logical + to,
            width=width,
            PAGE=PAGE,
            PER_BLOCK=PER_BLOCK,
            WIDTH=WIDTH,
            LOGICAL=LOGICAL,
        )


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
    overlap: bool = False,
    early: bool = False,
    group: int = 1,
    tuning: Tuning | None = None,
) -> None:
    """Write each row's candidate page table, its own block last, padded with page 0.

    Blocks are ascending, but in a decode step of few rows those between the sink and the local ones are the
    best first.

    Args:
        scores: fp32 ``[rows, blocks]`` of :func:`coarse_scores`; ties go to the earlier block.
        lengths, picks, table, table_rows: as in :func:`coarse_scores`; ``picks`` must cover the sink
            and local blocks.
        sink_blocks: leading blocks that are always kept.
        local_tokens: the blocks that hold this many tokens before the row's end are always kept.
        physical: int32 ``[rows, width]``, out: physical pages; ``width`` must hold the widest row.
        logical: the same shape, out: logical pages, or None.
        overlap: programmatic dependent launch (sm_90); the kernel waits for its predecessor first.
        early: with ``overlap``: only the scores may be the predecessor's (decode: lengths, picks and table
            were made for all layers); all else is read before the wait.
        group: so many adjacent rows choose together, by the sum of their scores. Their lengths, picks and
            table rows must be equal: those of the group's first row are read.
        tuning: how kernels are launched; None: those of the device.
    """
    if backend == "torch":
        reference.pick_pages(
            scores,
            lengths=lengths,
            picks=picks,
            table=table,
            table_rows=table_rows,
            pages_per_block=pages_per_block,
            sink_blocks=sink_blocks,
            local_tokens=local_tokens,
            physical=physical,
            logical=logical,
            group=group,
        )
        return
    rows, width = physical.shape
    if not rows:
        return
    tuning = tuning or for_device(scores.device)
    if table_rows is None and group == 1 and suits(rows, scores.shape[1], tuning):
        rank_pages(
            scores,
            lengths=lengths,
            picks=picks,
            table=table,
            pages_per_block=pages_per_block,
            sink_blocks=sink_blocks,
            local_tokens=local_tokens,
            physical=physical,
            logical=logical,
            overlap=overlap,
            early=early,
            tuning=tuning,
        )
        return
    if scores.shape[1] > MOST_BLOCKS:
        raise ValueError(
            f"{scores.shape[1]} blocks a row are more than the pick kernel takes ({MOST_BLOCKS})"
        )
    few = rows <= FEW_ROWS
    _pick_kernel[(cdiv(rows, group),)](
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
        rows,
        width,
        sink_blocks,
        local_tokens,
        PAGE=PAGE,
        PER_BLOCK=pages_per_block,
        TILE=tuning.pick_tile if few else tuning.pick_tile_many,
        WIDTH=max(16, power_of_2(width)),
        GROUP=group,
        MAPPED=table_rows is not None,
        LOGICAL=logical is not None,
        OVERLAP=overlap,
        EARLY=overlap and early,
        num_warps=tuning.pick_warps if few else tuning.pick_warps_many,
        **({"launch_pdl": True} if overlap else {}),
    )
