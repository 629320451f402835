"""SGLang's fused top-k kernels in PyTorch."""

from __future__ import annotations

import torch


def positions(
    scores: torch.Tensor, lengths: torch.Tensor, k: int, starts: torch.Tensor | None = None
) -> torch.Tensor:
    """Top-k of ``scores[i, starts[i] : starts[i] + lengths[i]]``, counted from ``starts[i]``.

    scores fp32 ``[rows, columns]``, lengths and starts int32 ``[rows]`` -> int32 ``[rows, k]``: ascending,
    then -1. Columns outside a row's window are never read, whatever they hold. Of equal scores the lowest
    positions win (the CUDA kernels leave that open): ReLU makes many scores of a small model exactly zero,
    and the choice must not depend on the width of the row if fused, unfused and HISA runs are compared.
    """
    first = torch.zeros_like(lengths) if starts is None else starts
    at = torch.arange(scores.shape[1]) - first[:, None]
    inside = (at >= 0) & (at < lengths[:, None])
    window = scores.masked_fill(~inside, float("-inf"))
    width = min(k, scores.shape[1])
    last = window.topk(width, dim=1).values[:, -1:]
    above = window > last
    equal = (window == last) & inside
    keep = above | (equal & (equal.cumsum(dim=1) <= k - above.sum(dim=1, keepdim=True)))
    keep = torch.where(lengths[:, None] <= k, inside, keep)
    none = torch.iinfo(torch.int32).max
    chosen = at.masked_fill(~keep, none).topk(width, dim=1, largest=False).values.to(torch.int32)
    chosen = chosen.masked_fill(chosen == none, -1)
    return torch.nn.functional.pad(chosen, (0, k - width), value=-1)


def through_table(at: torch.Tensor, table: torch.Tensor, page_size: int) -> torch.Tensor:
    """``table[i, at // page_size] * page_size + at % page_size`` (int32); -1 stays."""
    safe = at.clamp_min(0).long()
    slots = torch.gather(table, 1, safe // page_size) * page_size + safe % page_size
    return slots.to(torch.int32).masked_fill(at < 0, -1)


def plan(
    seq_lens: torch.Tensor, static_threshold: int = 0, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The CUDA kernel's work split, int32 ``[rows + 1, 2]``: nothing to split, but stock checks its shape."""
    if (seq_lens < 0).any():
        raise ValueError("plan_topk_v2: the CUDA kernel reads a negative length as 4e9 tokens")
    return seq_lens.new_zeros(seq_lens.shape[0] + 1, 2) if out is None else out.zero_()


def paged(
    scores: torch.Tensor,
    seq_lens: torch.Tensor,
    page_tables: torch.Tensor | None,
    out_page_indices: torch.Tensor,
    page_size: int,
    metadata: torch.Tensor,
    out_raw_indices: torch.Tensor | None = None,
) -> None:
    """``topk_transform_paged_v2``, or by its older name ``topk_transform_512_v2``."""
    if scores.dtype != torch.float32 or scores.stride(1) != 1 or scores.stride(0) % 4:
        raise ValueError(f"top-k v2: CUDA refuses {scores.dtype} scores with strides {scores.stride()}")
    if metadata.shape != (scores.shape[0] + 1, 2):
        raise ValueError(f"top-k v2: a plan of shape {tuple(metadata.shape)} for {scores.shape[0]} rows")
    at = positions(scores, seq_lens, out_page_indices.shape[1])
    out_page_indices.copy_(at if page_tables is None else through_table(at, page_tables, page_size))
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
    """``topk_transform_ragged_v2``, where SGLang has it."""
    at = positions(scores, seq_lens, out_indices.shape[1], row_starts)
    out_indices.copy_(torch.where(at >= 0, at + out_offsets[:, None].to(torch.int32), at))
