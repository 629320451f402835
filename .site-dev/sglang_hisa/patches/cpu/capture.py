"""``--enable-return-indexer-topk`` on a CPU."""

from __future__ import annotations

from typing import Any

import torch


def create(*, model_config: Any, num_tokens: int, max_running_requests: int, device: str) -> Any:
    """``create_indexer_capturer`` without its CUDA-only guard."""
    from sglang.srt.configs.model_config import get_num_indexer_layers
    from sglang.srt.runtime_context import get_exec
    from sglang.srt.state_capturer import indexer_topk

    config = model_config.hf_text_config
    return indexer_topk._create_indexer_capturer_raw(
        enable=get_exec().features.enable_return_indexer_topk,
        num_indexer_layers=get_num_indexer_layers(config),
        index_topk=getattr(config, "index_topk", 0),
        num_tokens=num_tokens,
        max_running_requests=max_running_requests,
        device=device,
    )


def host_cache(
    self: Any, num_tokens: int, num_layers: int, topk_size: int, name: str, device: str = "cpu"
) -> None:
    """``BaseHostCache.__init__`` in pageable memory."""
    self.buffer = torch.zeros((num_tokens, num_layers, topk_size), dtype=torch.int32)
    self.num_tokens, self.num_layers, self.topk_size = num_tokens, num_layers, topk_size
    self.name = name
