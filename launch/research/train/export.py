"""The trained model as a folder that SGLang (or transformers) loads."""

from __future__ import annotations

from pathlib import Path

import torch

from sglang_hisa.launch.common.models import write_json, write_tokenizer
from sglang_hisa.launch.research.train.model import Model


def export(model: Model, out: Path) -> Path:
    """Write ``config.json``, ``model.safetensors`` (bf16; the index key norm fp32) and the tokenizer."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, value in model.state_dict().items():
        kept = torch.float32 if ".k_norm." in name else torch.bfloat16
        weights[name] = value.detach().to("cpu", kept).contiguous()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = model.shape.config()
    write_json(out / "config.json", config)
    write_tokenizer(out, config["vocab_size"], config["max_position_embeddings"])
    return out
