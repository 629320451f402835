"""DSA's fp8 KV cache in PyTorch: 656 bytes a token, quantised, dequantised, and read by FlashMLA's decode."""

from __future__ import annotations

from typing import Any

import torch

from sglang_hisa.kernels.layout import FP8, FP8_MAX
from sglang_hisa.patches.cpu.attention import flashmla_sparse

LATENT, SCALES, BYTES = 512, 16, 656
"""Bytes of a token: fp8 latent, four fp32 scales (one for 128 elements), 64 bf16 elements of rope."""


class _NotCpu:
    """SGLang's platform, but for one question."""

    def __init__(self, platform: Any) -> None:
        self._platform = platform

    def __getattr__(self, name: str) -> Any:
        return getattr(self._platform, name)

    def is_cpu(self) -> bool:
        return False


def install() -> None:
    """Newer pools refuse fp8 on a CPU, where its own backend needs AMX; here the kernels are ours."""
    from sglang.srt.mem_cache import kv_cache_configurator

    if hasattr(kv_cache_configurator, "current_platform"):
        kv_cache_configurator.current_platform = _NotCpu(kv_cache_configurator.current_platform)


def quantise(
    k_nope: torch.Tensor, k_rope: torch.Tensor, tile_size: int = 128
) -> tuple[torch.Tensor, torch.Tensor]:
    """``quantize_k_cache_separate``: bf16 ``[n, 512]`` and ``[n, 64]`` (or ``[n, 1, ...]``) -> uint8
    ``[n, 1, 528]``, ``[n, 1, 128]``; scale = absmax / 448 without a floor (SGLang's ``quant_k_cache.py``)."""
    groups = k_nope.reshape(-1, LATENT // tile_size, tile_size).float()
    scale = groups.abs().amax(dim=-1) / FP8_MAX
    values = (groups * (1 / scale)[..., None]).nan_to_num()  # 0 / 0: any finite value, since its scale is 0
    values = values.clamp(-FP8_MAX, FP8_MAX).flatten(1).to(FP8)
    latent = torch.cat((values.view(torch.uint8), scale.view(torch.uint8)), dim=-1)
    rope = k_rope.reshape(latent.shape[0], -1).contiguous().view(torch.uint8)
    return latent[:, None], rope[:, None]


def dequantise(
    quant_k_cache: torch.Tensor, page_table_1_flattened: torch.Tensor, group_size: int = 128
) -> torch.Tensor:
    """``dequantize_k_cache_paged``: slots int ``[n]`` of 656-byte tokens -> bf16 ``[n, 1, 576]``."""
    rows = quant_k_cache.view(torch.uint8).reshape(-1, BYTES)[page_table_1_flattened.long()]
    values, scale, rope = rows.split((LATENT, SCALES, BYTES - LATENT - SCALES), dim=-1)
    groups = values.contiguous().view(FP8).float().unflatten(-1, (-1, group_size))
    latent = (groups * scale.contiguous().view(torch.float32)[..., None]).flatten(1).to(torch.bfloat16)
    return torch.cat((latent, rope.contiguous().view(torch.bfloat16)), dim=-1)[:, None]


def flashmla_metadata(self: Any, cache_seqlens: torch.Tensor, seq_len_q: int) -> Any:
    """``_compute_flashmla_metadata``: FlashMLA's work split; nothing to split here."""
    from sglang.srt.layers.attention.dsa_backend import DSAFlashMLAMetadata

    nothing = torch.zeros(cache_seqlens.shape[0] + 1, dtype=torch.int32)
    return DSAFlashMLAMetadata(flashmla_metadata=nothing, num_splits=nothing)


def flashmla_kv(
    self: Any,
    q_all: torch.Tensor,
    kv_cache: torch.Tensor,
    v_head_dim: int,
    sm_scale: float,
    layer: Any,
    metadata: Any,
    page_table_1: torch.Tensor,
) -> torch.Tensor:
    """``_forward_flashmla_kv``: slots int32 ``[rows, index_topk]``, -1 where there is none. A bf16 cache is
    quantised first, as SGLang does."""
    if page_table_1.shape[1] != self.dsa_index_topk:
        raise ValueError(f"FlashMLA refuses {page_table_1.shape[1]} slots a row")
    q = q_all.view(-1, layer.tp_q_head_num, layer.head_dim)
    if not self.dsa_kv_cache_store_fp8:
        kv_cache = torch.cat(
            quantise(*kv_cache.reshape(-1, layer.head_dim).split((LATENT, 64), dim=-1)), dim=-1
        )
    slots, where = page_table_1.clamp_min(0).unique(return_inverse=True)
    chosen = where.masked_fill(page_table_1 < 0, -1)
    return flashmla_sparse(self, q, dequantise(kv_cache, slots), v_head_dim, chosen, sm_scale)
