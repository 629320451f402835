"""DP attention over gloo: what SGLang's collectives and padded batches ask of a GPU."""

from __future__ import annotations

from typing import Any

import torch


def pageable(original: Any, *args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
    """``torch.tensor`` in ordinary memory."""
    made: torch.Tensor = original(*args, **kwargs)
    return made


def all_gather(self: Any, output: torch.Tensor, input: torch.Tensor) -> None:
    """``GroupCoordinator.all_gather_into_tensor`` without the custom operator that torch.compile needs."""
    self._all_gather_into_tensor(output, input)


def reduce_scatter(self: Any, output: torch.Tensor, input: torch.Tensor) -> None:
    """``GroupCoordinator.reduce_scatter_tensor``, the same way."""
    self._reduce_scatter_tensor(output, input)


def install() -> None:
    """Newer SGLangs ask for the length of a padded row by a CPU name, which this backend lacks."""
    from sglang.srt.layers.attention.dsa_backend import DeepseekSparseAttnBackend as Backend

    Backend.get_cpu_graph_seq_len_fill_value = Backend.get_cuda_graph_seq_len_fill_value
