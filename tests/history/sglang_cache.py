"""SGLang's own allocator, radix tree and DSA pool, of either version, built in this process on the CPU."""

from __future__ import annotations

import importlib.util
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sglang_hisa import PAGE
from sglang_hisa.config import parse
from sglang_hisa.patches import contract, runtime
from sglang_hisa.patches import cpu as stand_ins
from sglang_hisa.patches import pool as pool_hooks
from sglang_hisa.patches.releases import OLDEST

LAYERS = 3
"""One is neither the first nor the last, by which a step left to stock DSA seals."""


class _Launch:
    """A function called as Triton kernels are: ``kernel[grid](...)``."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __getitem__(self, grid: object) -> Any:
        return self._function


def _allocate_decode(
    lengths: torch.Tensor, last: torch.Tensor, free: torch.Tensor, out: torch.Tensor, *a: int
) -> None:
    """The next slot, or a new page's first: 0.5.17's Triton kernel. (0.5.23 has its own for CPUs.)"""
    new = (lengths - 1) % PAGE == 0
    fresh = free[(new.cumsum(0) - 1).clamp(0, max(0, len(free) - 1))] * PAGE if len(free) else last + 1
    out.copy_(torch.where(new, fresh, last + 1))


@contextmanager
def importable() -> Iterator[None]:
    """Import SGLang's cache without a GPU.

    The radix tree imports torchvision and sgl_kernel, which have no CPU build (the demo's stand-ins do);
    0.5.17's allocator launches two Triton kernels, whose interpreter takes milliseconds a token; the pool
    waits for a device.
    """
    missing = [name for name in ("torchvision", "sgl_kernel") if importlib.util.find_spec(name) is None]
    shims = str(Path(stand_ins.__file__).parent / "shims")
    if missing:
        sys.path.insert(0, shims)
    from sglang.srt.mem_cache.allocator import paged

    undo: list[tuple[Any, str, Any]] = [(torch.cuda, "synchronize", lambda *a: None)]
    if contract.installed_version() == OLDEST:

        def extend(prefix: Any, lengths: Any, last: Any, free: Any, out: Any, *a: int) -> None:
            paged.alloc_extend_naive(prefix, lengths, last, free, out, PAGE, "cpu")

        undo += [
            (paged, "alloc_extend_kernel", _Launch(extend)),
            (paged, "alloc_decode_kernel", _Launch(_allocate_decode)),
        ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in undo]
    for owner, name, value in undo:
        setattr(owner, name, value)
    try:
        if contract.installed_version() == OLDEST:
            yield
        else:
            from sglang.srt.runtime_context import get_parallel

            with get_parallel().override(attn_dcp_size=1, attn_dcp_rank=0):
                yield
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)
        if missing:
            sys.path.remove(shims)


class Tree:
    """The radix tree that SGLang's server builds by default, one face for both versions."""

    def __init__(self, allocator: Any) -> None:
        from sglang.srt.mem_cache.cache_init_params import CacheInitParams

        self._allocator = allocator
        self._old = contract.installed_version() == OLDEST
        if self._old:
            from sglang.srt.mem_cache.radix_cache import RadixCache

            self._tree: Any = RadixCache(CacheInitParams(False, None, allocator, PAGE))
        else:
            from sglang.srt.mem_cache.unified_cache.component_type import ComponentType
            from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

            parts = (ComponentType.FULL,)
            self._tree = UnifiedRadixCache(
                CacheInitParams(False, None, allocator, PAGE, tree_components=parts)
            )

    def _key(self, tokens: list[int]) -> Any:
        from sglang.srt.mem_cache.radix_cache import RadixKey

        return RadixKey(array("q", tokens[: len(tokens) // PAGE * PAGE]))

    def match(self, tokens: list[int]) -> tuple[torch.Tensor, Any]:
        """Slots (int64) of the longest known prefix in whole pages, and its lock, taken."""
        from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams

        found = self._tree.match_prefix(MatchPrefixParams(key=self._key(tokens)))
        node = found.last_device_node
        if self._old:
            self._tree.inc_lock_ref(node)
            return found.device_indices.clone(), node
        return self._tree.path_device_indices(node).clone(), self._tree.lock(node)

    def unlock(self, lock: Any) -> None:
        self._tree.dec_lock_ref(lock) if self._old else self._tree.unlock(lock)

    def insert(self, tokens: list[int], slots: torch.Tensor, protected: int) -> None:
        """Give the tree whole pages; those that it had under other slots, past ``protected``, are freed."""
        from sglang.srt.mem_cache.base_prefix_cache import InsertParams

        key = self._key(tokens)
        value = slots[: len(key)].clone()
        if self._old:
            had = self._tree.insert(InsertParams(key=key, value=value)).prefix_len
            self._allocator.free(slots[protected:had])
        else:
            self._tree.insert(InsertParams(key=key, value=value, prev_prefix_len=protected))

    def evict(self, tokens: int) -> None:
        from sglang.srt.mem_cache.base_prefix_cache import EvictParams

        self._tree.evict(EvictParams(num_tokens=tokens))

    def reset(self) -> None:
        self._tree.reset()

    @property
    def tokens(self) -> int:
        """Tokens whose pages the tree holds."""
        return int(self._tree.evictable_size() + self._tree.protected_size())


def free_pages(allocator: Any) -> list[int]:
    every = getattr(allocator, "get_all_free_pages", None)
    return (every() if every else allocator.free_pages).tolist()


def make_pool(pages: int) -> Any:
    """SGLang's DSA pool with our summaries, as the patch on its constructor adds them."""
    from sglang.srt.mem_cache.memory_pool import DSATokenToKVPool

    runtime.start(runtime.Runtime(parse("balanced"), contract.installed_version() or "", 0))
    kv = DSATokenToKVPool(
        size=pages * PAGE,
        page_size=PAGE,
        kv_lora_rank=16,
        dtype=torch.bfloat16,
        qk_rope_head_dim=8,
        layer_num=LAYERS,
        device="cpu",
        index_head_dim=128,
        enable_memory_saver=False,
        kv_cache_dim=24,
        index_buf_size=pages * PAGE,
    )
    pool_hooks.after_init(None, kv)
    return kv


def make_allocator(pages: int, kv: Any) -> Any:
    from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator

    return PagedTokenToKVPoolAllocator(pages * PAGE, PAGE, torch.bfloat16, "cpu", kv, False)
