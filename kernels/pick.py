"""Pick: the best-scored blocks of each row become its candidate page table.

One program a row. The threshold is found by a search over the bits of the ordered scores, which needs no
sort and gives a fixed order of ties: the earlier block wins. Pages leave in ascending order, so a row
that keeps everything keeps its table. A few rows go to :mod:`sglang_hisa.kernels.rank` instead.
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

FEW = 1024
"""Blocks of the cheapest branch; each of the next two takes twice as many, and a fourth one all."""
FEW_ROWS = 256
"""Rows up to which a launch has ``Tuning.pick_warps``, and from then on ``pick_warps_many``."""


@triton.jit
def _field(low_half, high_half, digit):
    """Count of keys whose digit is ``digit``, out of two sums of four 16-bit fields."""
    return ((tl.where(digit < 4, low_half, high_half) >> ((digit & 3) * 16)) & 0xFFFF).to(tl.int32)


@triton.jit
def _add_pairs(a, b, c, d):
    return a + c, b + d


@triton.jit
def _threshold(key, k):
    """The uint32 ``t`` that splits the ``k`` largest of ``key`` (uint32 ``[n]``, n < 2**16, 0 < k <= n).

    Either exactly ``k`` keys are >= t, or t is the k-th largest key and it has ties. A radix search from
    the top: each step counts the keys of every value of the next three bits (eight 16-bit fields of two
    int64 sums; the first step has two bits) and ends at the first exact count.
    """
    low = (k * 0).to(tl.uint32)
    wanted = k
    shift = k * 0 + 30
    while shift >= 0:
        digit = (key - low) >> shift.to(tl.uint32)
        one = tl.full((1,), 1, tl.int64) << ((digit & 3) * 16).to(tl.int64)
        low_half, high_half = tl.reduce(
            (tl.where(digit < 4, one, 0), tl.where((digit >= 4) & (digit < 8), one, 0)), 0, _add_pairs
        )
        found = k * 0
        above = k * 0
        total = k * 0
        for step in tl.static_range(8):
            count = _field(low_half, high_half, 7 - step)
            here = (total < wanted) & (total + count >= wanted)
            found = tl.where(here, 7 - step, found)
            above = tl.where(here, total, above)
            total += count
        low += found.to(tl.uint32) << shift.to(tl.uint32)
        wanted -= above
        exact = _field(low_half, high_half, found) == wanted
        shift = tl.where(exact, -1, shift - 3)
    return low


@triton.jit
def _pick_row(
    earlier,
    pick,
    length,
    score,
    score_stride,
    members,
    table,
    physical,
    logical,
    out_stride,
    width,
    sink_blocks,
    local_tokens,
    PAGE: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    GROUP: tl.constexpr,
    LOGICAL: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Keep ``pick`` of one row's ``earlier`` blocks; the pointers are the row's own. earlier <= BLOCKS.

    A group of ``members`` <= GROUP rows keeps those of the best sums, and each of its rows is written.
    """
    block = tl.arange(0, BLOCKS)
    inside = block < earlier
    scored = tl.where(pick < earlier, earlier, 0)
    if EARLY:
        # The whole table, while the predecessor still runs.
        first = tl.load(table + block * PER_BLOCK, mask=inside, other=0)
        if PER_BLOCK > 1:
            second = tl.load(table + block * PER_BLOCK + 1, mask=inside, other=0)
        gdc_wait()
        gdc_launch_dependents()
    value = tl.load(score + block, mask=block < scored, other=float("-inf"))
    if GROUP > 1:
        for member in range(1, members):
            value += tl.load(score + member * score_stride + block, mask=block < scored, other=0.0)
    keep = inside
    place = block
    if pick < earlier:
        key = block_keys(value, block, earlier, length, sink_blocks, local_tokens, PAGE * PER_BLOCK)
        threshold = _threshold(key, pick)
        above = ((key > threshold) & inside).to(tl.int32)
        tied = ((key == threshold) & inside).to(tl.int32)
        rank = tl.cumsum((above << 16) + tied, axis=0)
        tied_rank = rank & 0xFFFF
        wanted = pick - tl.sum(above, axis=0)
        keep = (above > 0) | ((tied > 0) & (tied_rank <= wanted))
        place = (rank >> 16) + tl.minimum(tied_rank, wanted) - 1
    for part in tl.static_range(PER_BLOCK):
        page = block * PER_BLOCK + part
        to = place * PER_BLOCK + part
        if EARLY and part == 0:
            found = first
        elif EARLY and part == 1:
            found = second
        else:
            found = tl.load(table + page, mask=keep, other=0)
        write = keep & (to < width)
        for member in range(0, members if GROUP > 1 else 1):
            tl.store(physical + member * out_stride + to, found, mask=write)
            if LOGICAL:
                tl.store(logical + member * out_stride + to, page, mask=write)


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
    FEW: tl.constexpr,
    BRANCHES: tl.constexpr,
    MANY: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUP: tl.constexpr,
    MAPPED: tl.constexpr,
    LOGICAL: tl.constexpr,
    OVERLAP: tl.constexpr,
    EARLY: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * GROUP
    members = tl.minimum(rows - row, GROUP)
    # Dependents start after the wait, here and in _pick_row: what they read early was made before the coarse
    # kernel, which does not wait before it lets this one start.
    if OVERLAP and not EARLY:
        gdc_wait()
        gdc_launch_dependents()
    length = tl.load(length_ptr + row)
    pick = tl.load(pick_ptr + row)
    earlier = tl.maximum(length - 1, 0) // (PAGE * PER_BLOCK)
    pick = tl.minimum(pick, earlier)
    source = row
    if MAPPED:
        source = tl.load(table_row_ptr + row).to(tl.int64)
    table = table_ptr + source * table_stride
    physical = physical_ptr + row * out_stride
    logical = logical_ptr + row * out_stride
    score = score_ptr + row * score_stride
    # A graph's bound is the longest context; most rows are shorter and take a cheaper branch.
    for branch in tl.static_range(BRANCHES):
        more = (branch == 0) | (earlier > (FEW << branch) // 2)
        if more & (earlier <= (MANY if branch == BRANCHES - 1 else FEW << branch)):
            _pick_row(
                earlier=earlier,
                pick=pick,
                length=length,
                score=score,
                score_stride=score_stride,
                members=members,
                table=table,
                physical=physical,
                logical=logical,
                out_stride=out_stride,
                width=width,
                sink_blocks=sink_blocks,
                local_tokens=local_tokens,
                PAGE=PAGE,
                PER_BLOCK=PER_BLOCK,
                BLOCKS=MANY if branch == BRANCHES - 1 else FEW << branch,
                GROUP=GROUP,
                LOGICAL=LOGICAL,
                EARLY=EARLY,
            )

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


def branches(blocks: int) -> int:
    """Branches of a kernel for at most ``blocks``, a power of two."""
    return min(4, max(1, (blocks // FEW).bit_length()))


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
    blocks = max(16, power_of_2(max(1, scores.shape[1])))
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
    if blocks > 1 << 15:  # counts and ranks are packed in 16 bits
        raise ValueError(f"{scores.shape[1]} blocks a row are more than the pick kernel takes (32768)")
    fewest = tuning.pick_warps if rows <= FEW_ROWS else tuning.pick_warps_many
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
        FEW=FEW,
        BRANCHES=branches(blocks),
        MANY=blocks,
        WIDTH=max(16, power_of_2(width)),
        GROUP=group,
        MAPPED=table_rows is not None,
        LOGICAL=logical is not None,
        OVERLAP=overlap,
        EARLY=overlap and early,
        num_warps=16 if blocks > 8192 else max(fewest, min(8, blocks // tuning.pick_blocks)),
        **({"launch_pdl": True} if overlap else {}),
    )
