"""Shape of the trained model, and its Hugging Face configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_hisa.launch.common.models import DEEPSEEK_V32


@dataclass(frozen=True)
class Shape:
    """Latent (512), rope (64), head (128) and index (128) dimensions are DeepSeek-V3.2's: kernels need them.

    The defaults give 10 MB in bf16. Every MLP is dense.
    """

    hidden: int = 256
    layers: int = 3
    heads: int = 4
    mlp: int = 256
    q_rank: int = 128
    index_heads: int = 32
    index_topk: int = 2048
    """Of the served model; SGLang's fused top-k kernel takes no other."""
    train_topk: int = 512
    """Of the sparse stages: stricter, so that the choice matters in sequences of 1K already."""
    vocab: int = 320
    context: int = 131072
    kv_rank: int = 512
    rope_dim: int = 64
    head_dim: int = 128
    index_dim: int = 128
    rope_theta: float = 10000.0
    eps: float = 1e-6
    copies: bool = False
    """Embeddings begin in the directions of the head's weights: a token that is handed on is predicted."""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Of a ``config.json`` that :meth:`config` made."""
        return cls(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            mlp=config["intermediate_size"],
            q_rank=config["q_lora_rank"],
            index_heads=config["index_n_heads"],
            index_topk=config["index_topk"],
            vocab=config["vocab_size"],
            context=config["max_position_embeddings"],
        )

    def config(self) -> dict[str, Any]:
        """``config.json``. A yarn factor of 1 is plain rope; SGLang's CPU rope takes nothing but yarn."""
        yarn = {**DEEPSEEK_V32["rope_scaling"], "factor": 1, "original_max_position_embeddings": self.context}
        changes = {
            "hidden_size": self.hidden,
            "intermediate_size": self.mlp,
            "moe_intermediate_size": self.mlp,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.context,
            "rope_theta": self.rope_theta,
            "rope_scaling": yarn,
            "rms_norm_eps": self.eps,
            "q_lora_rank": self.q_rank,
            "kv_lora_rank": self.kv_rank,
            "qk_nope_head_dim": self.head_dim,
            "qk_rope_head_dim": self.rope_dim,
            "v_head_dim": self.head_dim,
            # SGLang's constructors want experts; no layer has any.
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": self.layers,
            "index_n_heads": self.index_heads,
            "index_head_dim": self.index_dim,
            "index_topk": self.index_topk,
        }
        return {**DEEPSEEK_V32, **changes}
