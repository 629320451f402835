"""The fused indexer of models with interleaved rope (GLM-5): no Hadamard transform, key and gates in one.

SGLang builds it on CUDA alone. Here its two kernels are plain PyTorch; the methods that call them, and those
that store, are SGLang's.
"""

from __future__ import annotations

from typing import Any

import torch

from sglang_hisa.kernels.layout import FP8, FP8_MAX
from sglang_hisa.patches.cpu.attention import rotate


def _rope_first(x: torch.Tensor, cos_sin_cache: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Interleaved rope of the leading dimensions of ``[n, h, 128]``, in fp32."""
    table = cos_sin_cache[positions.flatten()].float()
    return rotate(x.float(), table, cos_sin_cache.shape[-1], neox=False)


def key_norm_rope(
    key_raw: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """``fused_k_indexer_norm_rope``: layer norm and rope of ``[n, 128]``, bf16."""
    key = torch.nn.functional.layer_norm(
        key_raw.float(), key_raw.shape[-1:], weight.float(), bias.float(), eps
    )
    return _rope_first(key[:, None], cos_sin_cache, positions)[:, 0].to(torch.bfloat16)


def query_rope_quant(
    q: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: float,
    cos_sin_cache: torch.Tensor,
    positions: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``fused_q_indexer_rope_first_quant``: fp8 ``[n, h, 128]``, and gates times scale fp32 ``[n, h, 1]``.

    scale = max(1e-4, absmax) / 448 for each token and head, not rounded to a power of two (SGLang's
    ``main_norm_rope.cuh``).
    """
    turned = _rope_first(q, cos_sin_cache, positions)
    scale = turned.abs().amax(dim=-1, keepdim=True).clamp_min(1e-4) / FP8_MAX
    quantised = (turned / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8)
    return quantised, weight.float()[..., None] * weight_scale * scale


def adopt(indexer: Any, is_neox_style: bool) -> None:
    """Give an indexer that was built for another device the projection that CUDA's constructor makes."""
    from sglang.srt.environ import envs
    from sglang.srt.layers.linear import ReplicatedLinear

    if is_neox_style or envs.SGLANG_DISABLE_DSA_INDEXER_FUSION.get():
        return
    indexer.wk_weights_proj = ReplicatedLinear(
        indexer.hidden_size, indexer.head_dim + indexer.n_heads, bias=False, params_dtype=torch.bfloat16
    )
    del indexer.wk, indexer.weights_proj
    indexer.use_dsa_indexer_fusion = True


def install() -> None:
    """Put the kernels where the indexer's module has them on CUDA; on a CPU it does not have the names."""
    from sglang.srt.layers.attention.dsa import dsa_indexer

    dsa_indexer.fused_k_indexer_norm_rope = key_norm_rope
    dsa_indexer.fused_q_indexer_rope_first_quant = query_rope_quant


def no_fused_store(key_dtype: Any, indices_dtype: Any, page_size: int) -> bool:
    """``can_use_dsa_fused_store``: the store is the unfused one."""
    return False
