"""SGLang's own kernels, as far as HISA calls them; ``patches/`` supplies them for each SGLang."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from sglang_hisa.schedule import Device


class StockKernels(Protocol):
    """Stock kernels of one SGLang version, as they serve stock DSA."""

    index_topk: int
    init_tokens: int
    local_tokens: int
    table_topk: bool
    """Whether :meth:`topk_slots` (top-k and page table in one launch) is the server's top-k."""

    @property
    def device(self) -> Device:
        """What decides how :meth:`paged_logits` is called (:mod:`sglang_hisa.schedule`)."""

    def schedule(self, lengths_2d: torch.Tensor) -> Any:
        """DeepGEMM's own work split for int32 ``[rows / group, group]`` lengths."""

    def paged_logits(
        self,
        q: torch.Tensor,
        index_k: torch.Tensor,
        weights: torch.Tensor,
        lengths_2d: torch.Tensor,
        table: torch.Tensor,
        schedule: Any,
        max_length: int,
    ) -> torch.Tensor:
        """DeepGEMM's paged MQA logits, fp32 ``[rows, max_length]``; row stride a multiple of 4.

        lengths_2d int32 ``[rows / group, group]``, table int32 ``[rows / group, pages]``: adjacent rows share
        a table, and the last one of a group is its longest.
        """

    def flat_logits(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        scales: torch.Tensor,
        weights: torch.Tensor,
        starts: torch.Tensor,
        ends: torch.Tensor,
        max_columns: int,
    ) -> torch.Tensor:
        """DeepGEMM's MQA logits of row i over ``keys[starts[i]:ends[i]]``, fp32 ``[rows, max_columns]``
        with the row's first key in column 0. keys fp8 ``[n, 128]``, scales fp32 ``[n]``."""

    def boost(self, logits: torch.Tensor, lengths: torch.Tensor) -> None:
        """Force the model's init and local tokens (+inf), in place."""

    def topk_plan(self, lengths: torch.Tensor) -> Any:
        """The top-k kernel's work split for int32 ``[rows]`` lengths."""

    def topk_slots(
        self, logits: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor, plan: Any
    ) -> torch.Tensor:
        """Top-k of each row mapped through a page table: int32 ``[rows, index_topk]``, -1 padded."""

    def topk_positions(self, logits: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Top-k positions of each row by the server's top-k backend: int32, -1 padded."""
