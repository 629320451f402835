"""SGLang's fused top-k kernels in PyTorch."""

from __future__ import annotations

from typing import Any

import torch


def positions(
    scores: torch.Tensor, lengths: torch.Tensor, k: int, starts: torch.Tensor | None = None
) -> torch.Tensor:
    """Top-k positions of ``scores[i, start : start + length]`` counted from ``start``: int32, -1 padded.

    A row of at most ``k`` scores gives 0, 1, 2, … in order, as the CUDA kernels do.
    """
    out = torch.full((scores.shape[0], k), -1, dtype=torch.int32)
    for row, length in enumerate(lengths.tolist()):
        start = 0 if starts is None else int(starts[row])
        count = min(length, k)
        if length <= k:
            out[row, :count] = torch.arange(count, dtype=torch.int32)
        else:
            out[row] = scores[row, start : start + length].topk(k).indices.to(torch.int32)
    return out


def through_table(at: torch.Tensor, table: torch.Tensor, page_size: int) -> torch.Tensor:
    """``table[row, p // page_size] * page_size + p % page_size``; -1 stays."""
    safe = at.clamp_min(0).long()
    slots = torch.gather(table, 1, safe // page_size) * page_size + safe % page_size
    return slots.to(torch.int32).masked_fill(at < 0, -1)


def plan(seq_lens: torch.Tensor, static_threshold: int = 0, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """The CUDA kernel's work split: nothing to plan here, but its shape is checked by stock."""
    return seq_lens.new_zeros(seq_lens.shape[0] + 1, 2) if out is None else out


def paged(
    scores: torch.Tensor,
    seq_lens: torch.Tensor,
    page_tables: torch.Tensor,
    out_page_indices: torch.Tensor,
    page_size: int,
    metadata: Any,
    out_raw_indices: torch.Tensor | None = None,
) -> None:
    """``topk_transform_512_v2`` (0.5.17), ``topk_transform_paged_v2`` (0.5.23)."""
    at = positions(scores, seq_lens, out_page_indices.shape[1])
    out_page_indices.copy_(through_table(at, page_tables, page_size))
    if out_raw_indices is not None:
        out_raw_indices.copy_(at)


def ragged(
    scores: torch.Tensor,
    seq_lens: torch.Tensor,
    *,
    out_offsets: torch.Tensor,
    out_indices: torch.Tensor,
    row_starts: torch.Tensor | None = None,
) -> None:
    """``topk_transform_ragged_v2`` (0.5.23)."""
    at = positions(scores, seq_lens, out_indices.shape[1], row_starts)
    out_indices.copy_(torch.where(at >= 0, at + out_offsets[:, None].to(torch.int32), at))
