"""How many layers of a DeepSeek model fit some GPUs: weights, KV cache, and what SGLang keeps free.

Sizes of one rank. Under tensor parallelism (TP) each rank has its part of the heads, the experts and the
vocabulary, and all of the indexer; under DP attention it has all heads and the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_hisa import PAGE

MIB = 1 << 20
SLACK_MIB = 2048
"""CUDA's context and NCCL's buffers, which SGLang finds taken when it looks at the free memory."""


@dataclass(frozen=True)
class Weights:
    """Parameters by where a rank has them: ``cut`` over all ranks, ``heads`` over those that share a request,
    ``whole`` on each. ``wide``: of the last, those that stay bf16."""

    cut: int = 0
    heads: int = 0
    whole: int = 0
    wide: int = 0

    def rank_bytes(self, ranks: int, dp: int, width: float) -> float:
        """On one rank; ``width``: bytes of a parameter that is not of ``wide``."""
        shared = self.heads * dp / ranks
        return (self.cut / ranks + shared + self.whole) * width + 2 * self.wide


def layer(config: Mapping[str, Any], sparse: bool) -> Weights:
    """One layer; ``sparse``: with experts (MoE) instead of the dense MLP."""
    hidden, q_rank, kv_rank = config["hidden_size"], config["q_lora_rank"], config["kv_lora_rank"]
    rope, count = config["qk_rope_head_dim"], config["num_attention_heads"]
    queries = q_rank * (config["qk_nope_head_dim"] + rope)
    latent = kv_rank * (config["qk_nope_head_dim"] + config["v_head_dim"])
    heads = count * (queries + latent + config["v_head_dim"] * hidden)
    index_heads, index_dim = config["index_n_heads"], config["index_head_dim"]
    whole = hidden * (q_rank + kv_rank + rope) + q_rank * index_heads * index_dim + hidden * index_dim
    norms = 2 * hidden + q_rank + kv_rank + 2 * index_dim
    wide = hidden * index_heads + norms
    if not sparse:
        return Weights(3 * hidden * config["intermediate_size"], heads, whole, wide)
    experts = config["n_routed_experts"]
    mlps = (experts + config["n_shared_experts"]) * 3 * hidden * config["moe_intermediate_size"]
    return Weights(mlps, heads, whole, wide + experts * (hidden + 1))


def draft(config: Mapping[str, Any]) -> Weights:
    """The layer of speculative decoding (MTP); embedding and head are the model's."""
    one, hidden = layer(config, sparse=True), config["hidden_size"]
    return Weights(one.cut, one.heads, one.whole, one.wide + 2 * hidden * hidden + 3 * hidden)


def weight_bytes(
    config: Mapping[str, Any], layers: int, ranks: int, dp: int = 1, drafts: bool = False
) -> int:
    """Weights of one of ``ranks``, ``dp`` of which serve requests of their own."""
    # A scale of 4 bytes for each block of 128 x 128.
    width = 1 + 4 / 128**2 if "quantization_config" in config else 2
    dense = min(layers, config["first_k_dense_replace"])
    vocabulary: int = 2 * 2 * config["vocab_size"] * config["hidden_size"]
    total = vocabulary / (1 if dp > 1 else ranks)
    total += dense * layer(config, False).rank_bytes(ranks, dp, width)
    total += (layers - dense) * layer(config, True).rank_bytes(ranks, dp, width)
    if drafts:
        total += draft(config).rank_bytes(ranks, dp, width)
    # SGLang keeps kv_b_proj twice: as it is stored, and cut into two bf16 matrices that decode multiplies by.
    latent = config["kv_lora_rank"] * (config["qk_nope_head_dim"] + config["v_head_dim"])
    twice = 2 * config["num_attention_heads"] * latent * dp / ranks
    return int(total + (layers + drafts) * twice)


def token_bytes(config: Mapping[str, Any]) -> float:
    """One token of one layer in the caches, on every rank: bf16 latent, index key with its scale, and its
    part of a page's summary."""
    key = config["index_head_dim"] + 4
    return float(2 * (config["kv_lora_rank"] + config["qk_rope_head_dim"]) + key + key / PAGE)


def static_mib(gpu_mib: int, ranks: int, dp: int = 1) -> float:
    """Of a GPU's memory, what SGLang takes for weights and KV cache by default.

    From ``handle_gpu_memory_settings`` and ``reserve_for_graph_mb`` of SGLang 0.5.23
    (``srt/arg_groups/memory_hook.py``) for GPUs of 60 to 160 GiB and MLA: chunks of 8192 tokens, decode
    graphs to 256 requests on fewer than four ranks and 512 on more, prefill graphs.
    """
    graphs = 256 if ranks < 4 else 512
    kept = 512 + 8192 * 1.5 + ranks / 8 * 1024 + graphs * 2 + 1.5 * 1024
    if dp > 1:
        kept += graphs * dp * (4.5 if graphs > 300 else 3)
    return gpu_mib - max(kept, 10 * 1024)


def layers_that_fit(
    config: Mapping[str, Any], ranks: int, gpu_mib: int, pool_tokens: int, dp: int = 1, drafts: bool = False
) -> int:
    """The most layers, up to those of the model, that serve ``pool_tokens`` of KV cache on each rank.

    Raises:
        ValueError: not even one.
    """
    free = (static_mib(gpu_mib, ranks, dp) - SLACK_MIB) * MIB
    for layers in range(config["num_hidden_layers"], 0, -1):
        cached = (layers + drafts) * pool_tokens * token_bytes(config)
        if weight_bytes(config, layers, ranks, dp, drafts) + cached <= free:
            return layers
    raise ValueError(
        f"no layer fits {ranks} GPUs of {gpu_mib:,} MiB with {pool_tokens:,} tokens of KV cache: take more "
        "GPUs, or larger ones (60 GiB or more each)"
    )
