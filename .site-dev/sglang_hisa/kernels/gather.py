"""Gather: the block summaries of a prefill step's requests, contiguous, for DeepGEMM's flat logits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import FP8, HEAD_DIM
from sglang_hisa.kernels.seal import _INVERSE_MAX, _to_e4m3


@triton.jit
def _gather_kernel(
    page_ptr,
    key_ptr,
    scale_ptr,
    byte_ptr,
    out_key_ptr,
    out_scale_ptr,
    DIM: tl.constexpr,
    PER_BLOCK: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    dim = tl.arange(0, DIM)
    if PER_BLOCK == 1:
        page = tl.load(page_ptr + block).to(tl.int64)
        tl.store(out_key_ptr + block * DIM + dim, tl.load(byte_ptr + page * DIM + dim))
        tl.store(out_scale_ptr + block, tl.load(scale_ptr + page))
    else:
        part = tl.arange(0, PER_BLOCK)
        page = tl.load(page_ptr + block * PER_BLOCK + part).to(tl.int64)
        key = tl.load(key_ptr + page[:, None] * DIM + dim[None, :]).to(tl.float32)
        mean = tl.sum(key * tl.load(scale_ptr + page)[:, None], axis=0) / PER_BLOCK
        scale = tl.maximum(tl.max(tl.abs(mean), axis=0), 1e-4) * _INVERSE_MAX
        unit = tl.div_rn(mean, tl.zeros_like(mean) + scale)
        unit = tl.minimum(tl.maximum(unit, -448.0), 448.0)
        tl.store(out_key_ptr + block * DIM + dim, _to_e4m3(unit))
        tl.store(out_scale_ptr + block, scale)


def gather_blocks(
    pages: torch.Tensor, keys: torch.Tensor, scales: torch.Tensor, pages_per_block: int, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summaries of blocks, in the order of ``pages``.

    Args:
        pages: int ``[blocks * pages_per_block]``, physical pages.
        keys, scales: the layer's summaries, fp8 ``[pages, 128]`` and fp32 ``[pages]``.

    Returns:
        fp8 ``[blocks, 128]`` and fp32 ``[blocks]``; a block of several pages is their mean, quantised
        again by the rule of the index keys (DeepGEMM scores fp8 only).
    """
    if backend == "torch":
        return reference.gather_blocks(pages, keys, scales, pages_per_block)
    blocks = pages.numel() // pages_per_block
    out_keys = torch.empty((blocks, HEAD_DIM), dtype=FP8, device=keys.device)
    out_scales = torch.empty(blocks, dtype=torch.float32, device=keys.device)
    if blocks:
        _gather_kernel[(blocks,)](
            pages,
            keys,
            scales,
            keys.view(torch.uint8),
            out_keys.view(torch.uint8),
            out_scales,
            DIM=HEAD_DIM,
            PER_BLOCK=pages_per_block,
            num_warps=1,
        )
    return out_keys, out_scales
