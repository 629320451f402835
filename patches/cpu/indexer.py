"""Indexer bodies without CUDA streams, graphs and device checks; they call the indexer's own methods, so
that hooks on those methods (HISA's) act as they do on a GPU."""

from __future__ import annotations

from typing import Any

import torch

from sglang_hisa.patches.cpu import fused, mqa


def device_capability(device: Any = None) -> tuple[int, int]:
    """A Hopper GPU, whose kernels the stand-ins imitate."""
    return (9, 0)


def synchronize(device: Any = None) -> None:
    """Nothing runs beside the CPU."""


def no_stream(name: str) -> None:
    """A side stream of a model (LongCat-Flash)."""
    return None


def after_init(result: None, self: Any, *args: Any, is_neox_style: bool = True, **kwargs: Any) -> None:
    """What the constructor asks of DeepGEMM on CUDA, and the fused projection that it makes there."""
    self.sm_count = mqa.NUM_SMS
    fused.adopt(self, is_neox_style)


def forward_native(
    self: Any,
    x: torch.Tensor,
    q_lora: torch.Tensor,
    positions: torch.Tensor,
    forward_batch: Any,
    layer_id: int,
    return_indices: bool = True,
) -> torch.Tensor | None:
    """``Indexer.forward_cuda``'s eager branches, unfused and fused (SGLang dsa_indexer.py)."""
    from sglang.srt.layers.attention.dsa import dsa_indexer
    from sglang.srt.state_capturer.indexer_topk import maybe_capture_indexer_topk

    from sglang_hisa.patches.cpu.leaf import act_quant

    def finish(chosen: torch.Tensor | None) -> torch.Tensor | None:
        return maybe_capture_indexer_topk(layer_id, dsa_indexer._broadcast_indexer_topk_from_rank0(chosen))

    mode = forward_batch.forward_mode
    if mode.is_idle() and hasattr(dsa_indexer, "_make_eager_idle_topk_result"):  # newer ones leave at once
        return finish(dsa_indexer._make_eager_idle_topk_result(x, self.index_topk, return_indices))
    metadata = dsa_indexer.get_attn_backend().get_indexer_metadata(layer_id, forward_batch)
    if metadata is None:
        return None
    if mode.is_extend_without_speculative() and self._should_skip_logits_computation(forward_batch):
        chosen = self._forward_cuda_k_only(
            x, positions, forward_batch, layer_id, act_quant, metadata, return_indices
        )
        return finish(chosen)
    if self.use_dsa_indexer_fusion:
        step = (x, q_lora, positions, forward_batch, layer_id, act_quant)
        q_fp8, weights = self._fused_q_prepare_and_store(*step, enable_dual_stream=False)
    else:
        query, key, _ = self._get_q_k_bf16(q_lora, x, positions, False, forward_batch=forward_batch)
        q_fp8, q_scale = act_quant(query, self.block_size, self.scale_fmt)
        self._store_index_k_cache(
            forward_batch=forward_batch, layer_id=layer_id, key=key, act_quant=act_quant
        )
        if getattr(self.weights_proj, "set_lora", False):
            weights = self.weights_proj(x)[0].float() * self.n_heads**-0.5
            weights = self._apply_q_scale_and_softmax_scale(weights, q_scale)
        else:
            weights = self._get_logits_head_gate(x, q_scale)
    if forward_batch.seq_lens.numel() == 0:
        return finish(torch.full((x.shape[0], self.index_topk), -1, dtype=torch.int32))
    if mode.is_extend_without_speculative():
        chosen = self._get_topk_ragged(False, forward_batch, layer_id, q_fp8, weights, metadata)
    else:
        chosen = self._get_topk_paged(forward_batch, layer_id, q_fp8, weights, metadata)
    return finish(chosen)


def topk_ragged(
    self: Any,
    enable_dual_stream: bool,
    forward_batch: Any,
    layer_id: int,
    q_fp8: torch.Tensor,
    weights: torch.Tensor,
    metadata: Any,
    topk_result: torch.Tensor | None = None,
) -> torch.Tensor:
    """``Indexer._get_topk_ragged`` in one shot."""
    from sglang.srt.layers.attention.dsa.dsa_indexer import get_token_to_kv_pool

    if topk_result is None:
        topk_result = torch.full((q_fp8.shape[0], self.index_topk), -1, dtype=torch.int32)
    starts, ends = metadata.get_indexer_kvcache_range()
    lengths = metadata.get_indexer_seq_len_cpu()
    keys, scales = get_token_to_kv_pool().get_index_k_scale_buffer(
        layer_id,
        metadata.get_indexer_seq_len(),
        metadata.get_page_table_64(),
        int(lengths.sum()),
        int(lengths.max()),
    )
    flat = (keys.view(torch.float8_e4m3fn), scales.view(torch.float32).squeeze(-1))
    rows = starts.shape[0]
    logits = mqa.flat_logits(q_fp8[:rows], flat, weights.squeeze(-1)[:rows], starts, ends)
    self._mask_init_and_local_tokens(logits, metadata.get_seqlens_expanded(), starts)
    topk_result[:rows] = metadata.topk_transform(logits, self.index_topk, ks=starts)
    return topk_result


def weights_proj(self: Any, x: torch.Tensor) -> torch.Tensor:
    """bf16 weights, fp32 output."""
    return x.float() @ self.weights_proj.weight.float().t()


def rotate_activation(x: torch.Tensor) -> torch.Tensor:
    """Walsh-Hadamard transform of the last dimension, scaled by its size ** -0.5."""
    size = x.shape[-1]
    out = x.float().reshape(-1, size)
    width = 1
    while width < size:
        pairs = out.view(-1, size // (2 * width), 2, width)
        out = torch.cat((pairs[:, :, :1] + pairs[:, :, 1:], pairs[:, :, :1] - pairs[:, :, 1:]), dim=2)
        width *= 2
    return (out.reshape(x.shape) * size**-0.5).to(x.dtype)
