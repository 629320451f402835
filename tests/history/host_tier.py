"""HiCache's host copy of index keys: SGLang's own host pool of either version, and our hook on its loads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from sglang_hisa import PAGE
from sglang_hisa.patches import contract
from sglang_hisa.patches import pool as pool_hooks
from sglang_hisa.patches.cpu import hicache
from sglang_hisa.patches.releases import OLDEST


def make_host_pool(kv: Any, pages: int, layout: str) -> Any:
    """SGLang's ``DSAIndexerPoolHost`` of ``pages`` pages for the device pool ``kv``."""
    hicache.install()
    anchor = SimpleNamespace(page_size=PAGE, size=pages * PAGE, page_num=pages, layout=layout)
    if contract.installed_version() == OLDEST:
        from sglang.srt.mem_cache.memory_pool_host import DSAIndexerPoolHost as OldHost

        return OldHost(kv, anchor, layout, pin_memory=False)
    from sglang.srt.mem_cache.pool_host.dsa import DSAIndexerPoolHost, make_dsa_indexer_pool_decl

    return DSAIndexerPoolHost(make_dsa_indexer_pool_decl(kv), anchor, pin_memory=False)


def slots_of(pages: list[int]) -> torch.Tensor:
    """int64: all slots of ``pages``, page after page."""
    return (torch.tensor(pages)[:, None] * PAGE + torch.arange(PAGE)).flatten()


class HostTier:
    """Host pages of a device pool: save whole pages, load them into others, a layer at a time."""

    def __init__(self, kv: Any, pages: int, io: str = "kernel", layout: str = "layer_first") -> None:
        self.kv, self._io = kv, io
        self.pool = make_host_pool(kv, pages, layout)

    def save(self, host: torch.Tensor, device: torch.Tensor) -> None:
        """Copy the pages of slots ``device`` (int64, whole pages) to those of ``host``."""
        self.pool.backup_from_device_all_layer(self.kv, host, device, self._io)

    def load_layer(self, host: torch.Tensor, device: torch.Tensor, layer: int) -> None:
        """Copy one layer of the pages of ``host`` to those of ``device``, and do what our patch does then."""
        args = (self.kv, host, device, layer, self._io)
        self.pool.load_to_device_per_layer(*args)
        pool_hooks.after_host_load(None, self.pool, *args)

    def load(self, host: torch.Tensor, device: torch.Tensor) -> None:
        """All layers, as SGLang's controllers do."""
        for layer in range(len(self.kv.index_k_with_scale_buffer)):
            self.load_layer(host, device, layer)
