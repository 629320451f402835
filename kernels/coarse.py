"""Coarse filter: the indexer score of each earlier block's summary, through the row's page table."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_hisa import PAGE
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import FP8, HEAD_DIM, KEY_BYTES
from sglang_hisa.kernels.seal import seal_last_page
from sglang_hisa.kernels.sizes import cdiv, power_of_2
from sglang_hisa.kernels.tuning import Tuning, for_device


@triton.jit
def _pages(BLOCKS: tl.constexpr, PER_BLOCK: tl.constexpr):
    """Pages of ``BLOCKS`` blocks in the order in which they are scored, int32 ``[BLOCKS * PER_BLOCK]``.

    A thread holds rows r and r + 8 of a product: the two pages of a block stand there, so that it adds their
    scores up without an exchange.
    """
    at = tl.arange(0, BLOCKS * PER_BLOCK)
    block = at // (8 * PER_BLOCK) * 8 + at % 8
    return block * PER_BLOCK + at // 8 % PER_BLOCK


@triton.jit
def _block_scores(key, scale, q, weight, BLOCKS: tl.constexpr, PER_BLOCK: tl.constexpr, HEADS: tl.constexpr):
    """fp32 ``[BLOCKS]``: sum over heads of w * relu(q . k) of a block's mean key, pages as in ``_pages``."""
    score = tl.dot(key, q)
    if PER_BLOCK > 1:
        # The mean comes before the ReLU: the score is that of the block's mean key.
        score = tl.reshape(score * scale[:, None], (BLOCKS // 8, PER_BLOCK, 8, HEADS))
        score = tl.reshape(tl.sum(score, axis=1) / PER_BLOCK, (BLOCKS, HEADS))
        total = tl.sum(tl.maximum(score, 0.0) * weight[None, :], axis=1)
    else:
        total = tl.sum(tl.maximum(score, 0.0) * weight[None, :], axis=1) * scale
    return total


@triton.jit
def _coarse_kernel(
    q_ptr,
    weight_ptr,
    key_ptr,
    scale_ptr,
    table_ptr,
    table_row_ptr,
    length_ptr,
    pick_ptr,
    out_ptr,
    raw_key_ptr,
    raw_scale_ptr,
    byte_ptr,
    q_stride,
    weight_stride,
    table_stride,
    out_stride,
    row_bytes,
    row_floats,
    heads,
    columns,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    PER_BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    TILES: tl.constexpr,
    MAPPED: tl.constexpr,
    SEAL: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    # In a decode step (SEAL) only the queries may be the predecessor's: lengths and table were made for all
    # layers, and summaries were sealed by earlier steps. Elsewhere this step may just have sealed them.
    EARLY: tl.constexpr = SEAL and TILES == 1
    if OVERLAP:
        gdc_launch_dependents()
        if not EARLY:
            gdc_wait()
    source = row
    if MAPPED:
        source = tl.load(table_row_ptr + row).to(tl.int64)
    table = table_ptr + source * table_stride
    length = tl.load(length_ptr + row)
    if SEAL:
        # The first program of each row, so that a page's rebuild runs beside the scores. The page that this
        # step's token completed is the row's own: no program reads its summary now.
        if tile == 0:
            if OVERLAP and EARLY:
                gdc_wait()
            seal_last_page(
                table=table,
                length=length,
                key_ptr=raw_key_ptr,
                scale_ptr=raw_scale_ptr,
                row_bytes=row_bytes,
                row_floats=row_floats,
                out_key_ptr=byte_ptr,
                out_scale_ptr=scale_ptr,
                PAGE=PAGE,
                DIM=DIM,
                KEY_BYTES=KEY_BYTES,
            )
            return
        tile -= 1
    start = tile * BLOCKS * TILES
    earlier = tl.maximum(length - 1, 0) // (PAGE * PER_BLOCK)
    scored = tl.where(tl.load(pick_ptr + row) < earlier, earlier, 0)
    head = tl.arange(0, HEADS)
    dim = tl.arange(0, DIM)
    q_at = q_ptr + row * q_stride + head[None, :] * DIM + dim[:, None]
    weight_at = weight_ptr + row * weight_stride + head
    block = start + tl.arange(0, BLOCKS)
    if TILES == 1:
        at = start * PER_BLOCK + _pages(BLOCKS, PER_BLOCK)
        page = tl.load(table + at, mask=at < columns * PER_BLOCK, other=0)  # does not wait for the length
        inside = at < scored * PER_BLOCK
        page = tl.where(inside, page, 0).to(tl.int64)
        key = tl.load(key_ptr + page[:, None] * DIM + dim[None, :])
        scale = tl.load(scale_ptr + page, mask=inside, other=0.0)
        if OVERLAP and EARLY:
            gdc_wait()
        q = tl.load(q_at, mask=(head < heads)[None, :], other=0.0)
        weight = tl.load(weight_at, mask=head < heads, other=0.0)
        total = _block_scores(key, scale, q, weight, BLOCKS, PER_BLOCK, HEADS)
        tl.store(out_ptr + row * out_stride + block, total, mask=block < scored)
    elif start < scored:
        q = tl.load(q_at, mask=(head < heads)[None, :], other=0.0)
        weight = tl.load(weight_at, mask=head < heads, other=0.0)
        stop = tl.minimum(start + BLOCKS * TILES, scored)
        for first in tl.range(start, stop, BLOCKS):
            at = first * PER_BLOCK + _pages(BLOCKS, PER_BLOCK)
            inside = at < scored * PER_BLOCK
            page = tl.load(table + at, mask=inside, other=0).to(tl.int64)
            key = tl.load(key_ptr + page[:, None] * DIM + dim[None, :])
            scale = tl.load(scale_ptr + page, mask=inside, other=0.0)
            total = _block_scores(key, scale, q, weight, BLOCKS, PER_BLOCK, HEADS)
            block = first + tl.arange(0, BLOCKS)
            tl.store(out_ptr + row * out_stride + block, total, mask=block < scored)


def coarse_scores(
    q: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    scales: torch.Tensor,
    table: torch.Tensor,
    table_rows: torch.Tensor | None,
    lengths: torch.Tensor,
    picks: torch.Tensor,
    pages_per_block: int,
    out: torch.Tensor,
    backend: str,
    *,
    seal_from: torch.Tensor | None = None,
    overlap: bool = False,
    tuning: Tuning | None = None,
) -> None:
    """Score the blocks that lie wholly before each row's own block (arXiv 2603.28458, stage 1).

    Args:
        q: fp8 ``[rows, heads, 128]``; weights: fp32 ``[rows, heads]`` with every query scale folded in.
        keys, scales: the layer's summaries, fp8 ``[pages, 128]`` and fp32 ``[pages]``.
        table: int32 ``[tables, pages]`` physical page of each logical one; no address from ``lengths`` on.
        table_rows: int32 ``[rows]``, the table row of each query row, or None for the identity.
        lengths: int32 ``[rows]``, tokens the row may see (its own included).
        picks: int32 ``[rows]``, earlier blocks to keep; a row that keeps all of them is not scored.
        out: fp32 ``[rows, >= earlier blocks]``; columns of unscored blocks are left as they are.
        seal_from: the layer's index-K buffer: seal each row's last page if its last token completed it
            (decode stores one token a row, so this replaces :func:`sglang_hisa.kernels.seal_tokens`).
        overlap: programmatic dependent launch (sm_90); the kernel waits for its predecessor first.
        tuning: how the kernel is launched; None: those of the device.
    """
    if backend == "torch":
        if seal_from is not None:
            done = reference.completed_pages(table, table_rows, lengths)
            reference.seal_pages(seal_from, done, keys, scales)
        reference.coarse_scores(
            q,
            weights,
            keys,
            scales,
            table=table,
            table_rows=table_rows,
            lengths=lengths,
            picks=picks,
            pages_per_block=pages_per_block,
            out=out,
        )
        return
    if q.stride(-1) != 1 or q.stride(-2) != HEAD_DIM or weights.stride(-1) != 1:
        raise ValueError("q and weights must be contiguous over heads and dims")
    rows, heads = q.shape[:2]
    if not rows or not out.shape[1]:
        return
    tuning = tuning or for_device(q.device)
    blocks = tuning.coarse_pages // pages_per_block
    # More programs than the chip holds at once loop over several tiles, their loads pipelined.
    tiles = max(1, min(8, rows * cdiv(out.shape[1], blocks) // tuning.coarse_programs))
    raw = keys.view(torch.uint8) if seal_from is None else seal_from
    programs = cdiv(out.shape[1], blocks * tiles) + (seal_from is not None)
    _coarse_kernel[(rows, programs)](
        q,
        weights,
        keys,
        scales,
        table,
        lengths if table_rows is None else table_rows,
        lengths,
        picks,
        out,
        raw.view(FP8),
        raw.view(torch.float32),
        keys.view(torch.uint8),
        q.stride(0),
        weights.stride(0),
        table.stride(0),
        out.stride(0),
        raw.stride(0),
        raw.stride(0) // 4,
        heads,
        min(out.shape[1], table.shape[1] // pages_per_block),
        HEADS=max(16, power_of_2(heads)),
        DIM=HEAD_DIM,
        PAGE=PAGE,
        KEY_BYTES=KEY_BYTES,
        PER_BLOCK=pages_per_block,
        BLOCKS=blocks,
        TILES=tiles,
        MAPPED=table_rows is not None,
        SEAL=seal_from is not None,
        OVERLAP=overlap,
        num_warps=tuning.coarse_warps,
        **({"launch_pdl": True} if overlap else {}),
    )
