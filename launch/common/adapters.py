"""LoRA adapters with random weights, for models of :mod:`.models`."""

from __future__ import annotations

import json
from pathlib import Path

from sglang_hisa.launch.common.models import shared_layers, write_json

RANK = 16


def make_gates(out: Path, model: Path) -> Path:
    """Write an adapter of the index gates (``weights_proj``) of every layer of ``model`` that has them, as
    PEFT writes one; strong enough that rows choose other tokens."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((model / "config.json").read_text())
    hidden, heads = config["hidden_size"], config["index_n_heads"]
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for layer in sorted({*range(config["num_hidden_layers"])} - {*shared_layers(config)}):
        base = f"base_model.model.model.layers.{layer}.self_attn.indexer.weights_proj.lora_"
        weights[base + "A.weight"] = torch.randn(RANK, hidden, generator=generator) * hidden**-0.5
        weights[base + "B.weight"] = torch.randn(heads, RANK, generator=generator)
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["weights_proj"]}
    write_json(out / "adapter_config.json", {**about, "bias": "none"})
    return out
