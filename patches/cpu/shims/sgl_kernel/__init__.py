"""CPU stand-in for the package sgl_kernel: SGLang imports its names at module level.

The functions of top-k and of speculative decoding work (in PyTorch); every other name is a function that
raises when called.
"""

from typing import Any, NoReturn

import torch

__version__ = "0.4.10"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    from sglang_hisa.patches.cpu import speculative

    if hasattr(speculative, name):
        return getattr(speculative, name)

    def missing(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} has no CPU stand-in")

    missing.__name__ = name
    return missing


def fast_topk_v2(
    score: torch.Tensor, lengths: torch.Tensor, topk: int, row_starts: torch.Tensor | None = None
) -> torch.Tensor:
    from sglang_hisa.patches.cpu.topk import positions

    return positions(score, lengths, topk, row_starts)


def fast_topk_transform_fused(
    score: torch.Tensor,
    lengths: torch.Tensor,
    page_table_size_1: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    topk: int,
    row_starts: torch.Tensor | None = None,
) -> torch.Tensor:
    from sglang_hisa.patches.cpu.topk import positions, through_table

    rows = score.shape[0]
    counts = cu_seqlens_q[1:] - cu_seqlens_q[:-1]
    owner = torch.repeat_interleave(torch.arange(counts.numel()), counts.long(), output_size=rows)
    return through_table(positions(score, lengths, topk, row_starts), page_table_size_1[owner], 1)


def fast_topk_transform_ragged_fused(
    score: torch.Tensor,
    lengths: torch.Tensor,
    topk_indices_offset: torch.Tensor,
    topk: int,
    row_starts: torch.Tensor | None = None,
) -> torch.Tensor:
    from sglang_hisa.patches.cpu.topk import positions

    at = positions(score, lengths, topk, row_starts)
    return torch.where(at >= 0, at + topk_indices_offset[:, None].to(torch.int32), at)
