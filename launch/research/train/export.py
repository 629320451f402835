"""The trained model as a folder that SGLang (or transformers) loads."""

from __future__ import annotations

from pathlib import Path

import torch

from sglang_hisa.launch.common.models import write_json
from sglang_hisa.launch.research.train.model import Model


def export(model: Model, out: Path) -> Path:
    """Write ``config.json`` and ``model.safetensors`` (bf16; the index key norm fp32)."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, value in model.state_dict().items():
        kept = torch.float32 if ".k_norm." in name else torch.bfloat16
        weights[name] = value.detach().to("cpu", kept).contiguous()
    part = out / "model.safetensors.part"
    save_file(weights, part, metadata={"format": "pt"})
    part.replace(out / "model.safetensors")
    write_json(out / "config.json", model.shape.config())
    return out
