"""Filter: coarse scores and pick in one launch, for decode, where launches are what costs.

The programs of a row score its blocks; the last one to finish (an atomic count a row) picks. A row that
fits its budget is not scored: one program copies its table.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_hisa.kernels.coarse import coarse_scores, score_blocks
from sglang_hisa.kernels.layout import HEAD_DIM, PAGE
from sglang_hisa.kernels.pick import own_block, pick_pages, pick_row


@triton.jit
def _filter_kernel(
    q_ptr,
    weight_ptr,
    key_ptr,
    scale_ptr,
    table_ptr,
    length_ptr,
    pick_ptr,
    score_ptr,
    count_ptr,
    physical_ptr,
    logical_ptr,
    q_stride,
    weight_stride,
    table_stride,
    score_stride,
    out_stride,
    heads,
    width,
    sink_blocks,
    local_tokens,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    FEW: tl.constexpr,
    MANY: tl.constexpr,
    WIDTH: tl.constexpr,
    LOGICAL: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    length = tl.load(length_ptr + row)
    earlier = tl.maximum(length - 1, 0) // (PAGE * PER_BLOCK)
    pick = tl.minimum(tl.load(pick_ptr + row), earlier)
    scored = pick < earlier
    parts = tl.where(scored, (earlier + BLOCKS - 1) // BLOCKS, 1)
    if part >= parts:
        return
    done = parts - 1
    if scored:
        score_blocks(
            row,
            row,
            part * BLOCKS,
            earlier,
            q_ptr,
            weight_ptr,
            key_ptr,
            scale_ptr,
            table_ptr,
            score_ptr,
            q_stride,
            weight_stride,
            table_stride,
            score_stride,
            heads,
            HEADS,
            DIM,
            PER_BLOCK,
            BLOCKS,
        )
        # All of the program's scores must be visible before its count is.
        tl.debug_barrier()
        done = tl.atomic_add(count_ptr + row, 1, sem="acq_rel", scope="gpu")
    if done == parts - 1:
        if scored:
            tl.store(count_ptr + row, 0)
        table = table_ptr + row * table_stride
        physical = physical_ptr + row * out_stride
        logical = logical_ptr + row * out_stride
        score = score_ptr + row * score_stride
        if earlier <= FEW:
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
                FEW,
                LOGICAL,
            )
        else:
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
                MANY,
                LOGICAL,
            )
        own_block(earlier, pick, length, table, physical, logical, width, PAGE, PER_BLOCK, WIDTH, LOGICAL)


def filter_pages(
    q: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    scales: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    picks: torch.Tensor,
    pages_per_block: int,
    score_blocks_max: int,
    counts: torch.Tensor,
    sink_blocks: int,
    local_tokens: int,
    physical: torch.Tensor,
    logical: torch.Tensor | None,
    backend: str,
    overlap: bool = False,
) -> None:
    """:func:`coarse_scores` then :func:`pick_pages` with one table row a query row.

    Args:
        counts: int32 ``[rows]`` zeros; left zero again.
        score_blocks_max: columns of the score, a bound of every row's earlier blocks.
        overlap: launch with programmatic stream serialisation (needs sm_90; the kernel waits for its
            predecessor before it reads anything).
        The rest as in those functions.
    """
    rows, width = physical.shape
    scores = torch.empty((rows, score_blocks_max), dtype=torch.float32, device=q.device)
    if backend == "torch":
        which = (table, None, lengths, picks, pages_per_block)
        coarse_scores(q, weights, keys, scales, *which, scores, backend)
        pick_pages(
            scores,
            lengths,
            picks,
            table,
            None,
            pages_per_block,
            sink_blocks,
            local_tokens,
            physical,
            logical,
            backend,
        )
        return
    if q.stride(-1) != 1 or q.stride(-2) != HEAD_DIM or weights.stride(-1) != 1:
        raise ValueError("q and weights must be contiguous over heads and dims")
    if not rows:
        return
    many = max(16, triton.next_power_of_2(score_blocks_max))
    if many > 1 << 15:
        raise ValueError(f"{score_blocks_max} blocks a row are more than the filter takes (32768)")
    blocks = max(16, 64 // pages_per_block)
    _filter_kernel[(rows, triton.cdiv(score_blocks_max, blocks))](
        q,
        weights,
        keys,
        scales,
        table,
        lengths,
        picks,
        scores,
        counts,
        physical,
        physical if logical is None else logical,
        q.stride(0),
        weights.stride(0),
        table.stride(0),
        scores.stride(0),
        physical.stride(0),
        q.shape[1],
        width,
        sink_blocks,
        local_tokens,
        HEADS=max(16, triton.next_power_of_2(q.shape[1])),
        DIM=HEAD_DIM,
        PAGE=PAGE,
        PER_BLOCK=pages_per_block,
        BLOCKS=blocks,
        FEW=min(1024, many),
        MANY=many,
        WIDTH=max(16, triton.next_power_of_2(width)),
        LOGICAL=logical is not None,
        OVERLAP=overlap,
        num_warps=16 if many > 8192 else 8,
        **({"launch_pdl": True} if overlap else {}),
    )
