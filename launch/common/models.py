"""Models that need no download: a tiny random one for a CPU, and slices of real shapes for GPUs.

A slice is a config and a tokenizer only; serve it with ``--load-format dummy``. Shapes are those of the
public DeepSeek-V3.2 and GLM-5 configurations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_hisa.launch.common.model_config import Config

if TYPE_CHECKING:
    import torch

_YARN: Config = {
    "type": "yarn",
    "factor": 40,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
}

DEEPSEEK_V32: Config = {
    "architectures": ["DeepseekV32ForCausalLM"],
    "model_type": "deepseek_v32",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": _YARN,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "index_n_heads": 64,
    "index_head_dim": 128,
    "index_topk": 2048,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
    "num_nextn_predict_layers": 0,
}
"""As published, but for the token ids (our tokenizer's), and without quantization and draft layer."""

FP8: Config = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "scale_fmt": "ue8m0",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
"""``quantization_config`` of DeepSeek-V3.2 as it is published."""

GLM_5: Config = {
    **{key: value for key, value in DEEPSEEK_V32.items() if key not in ("rope_theta", "rope_scaling")},
    "architectures": ["GlmMoeDsaForCausalLM"],
    "model_type": "glm_moe_dsa",
    "hidden_size": 6144,
    "intermediate_size": 12288,
    "num_hidden_layers": 78,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "vocab_size": 154880,
    "max_position_embeddings": 202752,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"},
    "rope_interleave": True,
    "indexer_rope_interleave": True,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "n_group": 1,
    "topk_group": 1,
    "index_n_heads": 32,
}
"""GLM-5 (as transformers' GlmMoeDsaConfig): half the index heads, interleaved index rope, no yarn."""

FAMILIES = {"v32": DEEPSEEK_V32, "glm5": GLM_5}

MAX_CONTEXT = 1 << 20
"""Longest context, in tokens, that a model is made for."""

_TINY: Config = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 512,
    "q_lora_rank": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "index_n_heads": 4,
    "index_topk": 64,
}
"""Differences of the tiny model; latent, rope and index dimensions stay real."""

SLICES: dict[str, tuple[str, Config]] = {
    "v32": (
        "DeepSeek-V3.2 as it is published: 61 layers (or --layers N), fp8 weights, a draft layer",
        {**DEEPSEEK_V32, "quantization_config": FP8, "num_nextn_predict_layers": 1},
    ),
    "v32-4l": (
        "4 full-width DeepSeek-V3.2 layers (3 dense, 1 MoE); fits one 80 GB GPU in bf16",
        {**DEEPSEEK_V32, "num_hidden_layers": 4},
    ),
    "v32-tp8-rank": (
        "61 layers at the width of one TP8 rank: 16 heads, dense MLP 2304, all 64 index heads",
        {
            **DEEPSEEK_V32,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "intermediate_size": 2304,
            "first_k_dense_replace": 61,
            "vocab_size": 16160,
        },
    ),
    "v32-2l": (
        "2 full-width dense DeepSeek-V3.2 layers: starts in seconds",
        {**DEEPSEEK_V32, "num_hidden_layers": 2},
    ),
    "glm5-4l": (
        "4 full-width GLM-5 layers (3 dense, 1 MoE), 32 index heads; fits one 80 GB GPU in bf16",
        {**GLM_5, "num_hidden_layers": 4},
    ),
    "glm52-4l": (
        "4 GLM-5.2 layers, dense; layer 2 reuses the choice of layer 1",
        {**GLM_5, "num_hidden_layers": 4, "first_k_dense_replace": 4, "index_topk_freq": 2},
    ),
}
"""What each is, and its configuration."""


def write_tokenizer(out: Path, vocab: int, context: int) -> None:
    """A byte-level tokenizer: one token a byte, so a text's length is its token count."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [f"<extra{i}>" for i in range(vocab - len(pieces))]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(out / "tokenizer.json"))
    write_tokenizer_config(out, context)


def write_tokenizer_config(out: Path, context: int) -> None:
    """What transformers reads beside ``tokenizer.json``."""
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": context,
            "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
        },
    )


def write_json(path: Path, value: Config) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _with_context(config: Config, context: int | None) -> Config:
    """``config`` for ``context`` tokens; past the public length a yarn factor grows with it.

    Raises:
        ValueError: not 1 to ``MAX_CONTEXT`` tokens.
    """
    if context is not None and not 0 < context <= MAX_CONTEXT:
        raise ValueError(f"context {context} is not allowed; allowed: 1 to {MAX_CONTEXT} tokens")
    if context is None or context <= config["max_position_embeddings"]:
        return config
    longer = {**config, "max_position_embeddings": context}
    if "rope_scaling" in config:
        factor = -(-context // _YARN["original_max_position_embeddings"])
        longer["rope_scaling"] = {**_YARN, "factor": factor}
    return longer


def make_slice(name: str, out: Path, context: int | None = None, layers: int | None = None) -> Path:
    """Write the slice ``name`` (see ``SLICES``) to ``out`` for contexts up to ``context`` tokens.

    ``layers``: only its first so many.

    Raises:
        ValueError: unknown name, a context out of range, or more layers than it has.
    """
    if name not in SLICES:
        raise ValueError(f"unknown slice {name!r}; allowed: {', '.join(SLICES)}")
    config = _with_context(SLICES[name][1], context)
    most = config["num_hidden_layers"]
    if layers is not None and not 0 < layers <= most:
        raise ValueError(f"{layers} layers are not allowed; {name} has {most}, allowed: 1 to {most}")
    config = {**config, "num_hidden_layers": layers or most}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", config)
    # Every id the model can answer needs a text: the load generator takes empty text for no token.
    write_tokenizer(out, config["vocab_size"], config["max_position_embeddings"])
    return out


def described(model: Path) -> str:
    """One line on the model in a folder, for records."""
    config = json.loads((model / "config.json").read_text())
    kind, layers, heads = config["model_type"], config["num_hidden_layers"], config["index_n_heads"]
    weights = "own weights" if list(model.glob("*.safetensors")) else "dummy weights"
    weights += ", fp8" * ("quantization_config" in config)
    return f"{kind}, {layers} layers of width {config['hidden_size']}, {heads} index heads, {weights}"


def shared_layers(config: Config) -> list[int]:
    """Layers that reuse an earlier layer's choice and have no indexer weights (``index_topk_freq``)."""
    freq = config.get("index_topk_freq", 1)
    return [layer for layer in range(config["num_hidden_layers"]) if max(layer - 1, 0) % freq]


def _weights(config: Config) -> dict[str, torch.Tensor]:
    import torch

    generator = torch.Generator().manual_seed(0)
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    q_rank, kv_rank = config["q_lora_rank"], config["kv_lora_rank"]
    index_heads, index_dim = config["index_n_heads"], config["index_head_dim"]
    shared = shared_layers(config)
    out: dict[str, torch.Tensor] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        values = torch.randn(rows, columns, generator=generator) * columns**-0.5
        out[name + ".weight"] = values.to(torch.bfloat16)

    def ones(name: str, size: int) -> None:
        out[name + ".weight"] = torch.ones(size, dtype=torch.bfloat16)

    def mlp(name: str, width: int) -> None:
        matrix(name + ".gate_proj", width, hidden)
        matrix(name + ".up_proj", width, hidden)
        matrix(name + ".down_proj", hidden, width)

    embedding = torch.randn(config["vocab_size"], hidden, generator=generator)
    out["model.embed_tokens.weight"] = embedding.to(torch.bfloat16)
    matrix("lm_head", config["vocab_size"], hidden)
    ones("model.norm", hidden)
    drafts = config["num_nextn_predict_layers"]
    for layer in range(config["num_hidden_layers"] + drafts):
        base = f"model.layers.{layer}"
        attention = base + ".self_attn"
        matrix(attention + ".q_a_proj", q_rank, hidden)
        ones(attention + ".q_a_layernorm", q_rank)
        matrix(attention + ".q_b_proj", heads * (nope + rope), q_rank)
        matrix(attention + ".kv_a_proj_with_mqa", kv_rank + rope, hidden)
        ones(attention + ".kv_a_layernorm", kv_rank)
        matrix(attention + ".kv_b_proj", heads * (nope + value), kv_rank)
        matrix(attention + ".o_proj", hidden, heads * value)
        if layer not in shared:
            matrix(attention + ".indexer.wq_b", index_heads * index_dim, q_rank)
            matrix(attention + ".indexer.wk", index_dim, hidden)
            out[attention + ".indexer.k_norm.weight"] = torch.ones(index_dim)
            out[attention + ".indexer.k_norm.bias"] = torch.zeros(index_dim)
            matrix(attention + ".indexer.weights_proj", index_heads, hidden)
        ones(base + ".input_layernorm", hidden)
        ones(base + ".post_attention_layernorm", hidden)
        if layer < config["first_k_dense_replace"]:
            mlp(base + ".mlp", config["intermediate_size"])
            continue
        experts = config["n_routed_experts"]
        matrix(base + ".mlp.gate", experts, hidden)
        out[base + ".mlp.gate.e_score_correction_bias"] = torch.zeros(experts)
        for expert in range(experts):
            mlp(f"{base}.mlp.experts.{expert}", config["moe_intermediate_size"])
        mlp(base + ".mlp.shared_experts", config["moe_intermediate_size"] * config["n_shared_experts"])
    if drafts:
        _add_draft(out, config, generator)
    return out


def _add_draft(out: dict[str, torch.Tensor], config: Config, generator: torch.Generator) -> None:
    """What makes the last layer a draft layer (MTP, NextN) that is often right, and often wrong.

    The head mostly names the successor of the current token in a fixed random order of all tokens, which
    the layers blur; the draft layer sees that token too, but is one layer and not all of them.
    """
    import torch

    hidden, vocab = config["hidden_size"], config["vocab_size"]
    base = f"model.layers.{config['num_hidden_layers']}"
    order = torch.randperm(vocab, generator=generator)
    embedding = out["model.embed_tokens.weight"]
    head = torch.empty_like(embedding)
    head[order.roll(-1)] = embedding[order]
    out["lm_head.weight"] += 0.8 * hidden**-0.5 * head
    token_only = torch.cat((torch.eye(hidden), torch.zeros(hidden, hidden)), dim=1)
    out[base + ".eh_proj.weight"] = token_only.to(torch.bfloat16)
    for norm in ("enorm", "hnorm", "shared_head.norm"):
        out[f"{base}.{norm}.weight"] = torch.ones(hidden, dtype=torch.bfloat16)


def make_tiny(
    out: Path,
    *,
    layers: int = 3,
    index_topk: int = 64,
    context: int | None = None,
    family: str = "v32",
    index_topk_freq: int = 1,
    draft: bool = False,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write a random model of 5 MB with real latent, rope and index dimensions to ``out``.

    ``family``: "v32" (DeepSeek-V3.2) or "glm5" (GLM-5: interleaved index rope, other attention dimensions).
    ``index_topk_freq``: after layer 1, one layer in so many has an indexer; the others reuse its choice.
    ``draft``: one more layer for speculative decoding (MTP), whose drafts are often right and often wrong.
    ``more``: other fields of the configuration.
    Greedy text of it is noise; it is for running the server, not for reading. Equal arguments write equal
    bytes.

    Raises:
        ValueError: an unknown family, or a context out of range.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; allowed: {', '.join(FAMILIES)}")
    from safetensors.torch import save_file

    changes = {"num_hidden_layers": layers, "index_topk": index_topk}
    if index_topk_freq > 1:
        changes["index_topk_freq"] = index_topk_freq
    if draft:
        changes["num_nextn_predict_layers"] = 1
    config = _with_context({**FAMILIES[family], **_TINY, **changes, **(more or {})}, context)
    out.mkdir(parents=True, exist_ok=True)
    save_file(_weights(config), out / "model.safetensors", metadata={"format": "pt"})
    write_json(out / "config.json", config)
    write_tokenizer(out, config["vocab_size"], config["max_position_embeddings"])
    return out


def make_small(
    out: Path,
    *,
    layers: int = 2,
    index_heads: int = 64,
    more: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Write a model of :func:`make_tiny`'s kind for one GPU: DSA's real top-k and index heads, the attention
    heads of a TP8 rank.

    Unlike a slice it has weights of its own: with dummy ones the next token follows from the last one alone,
    whatever a row attended to. Raises as :func:`make_tiny` does.
    """
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16, "index_n_heads": index_heads}
    # 512: SGLang's kernel that norms a draft's inputs takes multiples of 256 above 256 alone.
    wide = {**heads, "hidden_size": 512, "first_k_dense_replace": layers, **(more or {})}
    return make_tiny(out, layers=layers, index_topk=2048, more=wide, **settings)
