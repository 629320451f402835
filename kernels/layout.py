"""Byte layout of SGLang's index-K cache and of the page summaries beside it.

One page row of the index-K buffer holds 64 fp8 keys of 128 elements, then 64 fp32 scales
(``DSATokenToKVPool._create_index_buffers`` in SGLang 0.5.17, ``IndexKeyCache`` in 0.5.23)::

    [ 64 x 128 bytes of keys | 64 x 4 bytes of scales ]  = 8448 bytes
"""

from __future__ import annotations

import torch

from sglang_hisa import PAGE

HEAD_DIM = 128
KEY_BYTES = PAGE * HEAD_DIM
ROW_BYTES = KEY_BYTES + PAGE * 4
SUMMARY_BYTES = HEAD_DIM + 4
"""Bytes of one page's summary: 128 fp8 elements and one fp32 scale (1.6 % of the page's index-K)."""

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


def key_view(index_k: torch.Tensor) -> torch.Tensor:
    """``[pages, 8448]`` uint8 -> fp8 view of the same shape (elements past 8191 are scale bytes)."""
    if index_k.dtype != torch.uint8 or index_k.dim() != 2 or index_k.shape[1] != ROW_BYTES:
        raise ValueError(f"index-K must be uint8 [pages, {ROW_BYTES}], not {index_k.dtype} {index_k.shape}")
    return index_k.view(FP8)


def scale_view(index_k: torch.Tensor) -> torch.Tensor:
    """``[pages, 8448]`` uint8 -> fp32 view ``[pages, 2112]``; the scales are its columns 2048 to 2111."""
    return index_k.view(torch.float32)


def dequantised_pages(index_k: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Keys of ``pages`` (int ``[n]``) as fp32 ``[n, 64, 128]``."""
    rows = index_k[pages.long()]
    keys = rows[:, :KEY_BYTES].contiguous().view(FP8).float().view(-1, PAGE, HEAD_DIM)
    scales = rows[:, KEY_BYTES:].contiguous().view(torch.float32)
    return keys * scales[:, :, None]
