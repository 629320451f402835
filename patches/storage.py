"""HiCache storage (L3): pages that HISA computed have keys of their own.

SGLang's key of a page is a hash of its tokens and those before it; some backends add the model's name, some
nothing. Keys are changed here, where they enter the backend, whichever it is: the hashes of SGLang's trees
(one of which makes them in Rust), its KV events and what routers know of prefixes stay as they are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sglang_hisa.patches import runtime

logger = logging.getLogger(__name__)

KEYED = frozenset(
    (
        "get",
        "set",
        "exists",
        "batch_get",
        "batch_set",
        "batch_exists",
        "batch_get_v1",
        "batch_set_v1",
        "batch_get_v2",
        "batch_set_v2",
        "batch_exists_v2",
    )
)
"""Methods of a backend that take keys, alone, in lists, or inside SGLang's descriptions of a transfer."""
_HASH = 64
"""Hex digits of SGLang's hash of a page; a suffix may follow (``.draft``)."""


class NamedKeys:
    """A storage backend whose keys name HISA's settings; everything else of it passes through.

    Not an instance of the backend's class: SGLang 0.5.23 then says that its keys cannot be looked up from
    outside (``/get_hicache_l3_cache_layout``), which is so.
    """

    def __init__(self, backend: Any, fingerprint: str) -> None:
        self._backend = backend
        self._fingerprint = fingerprint.encode()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        return self._with_named_keys(found) if name in KEYED else found

    def _with_named_keys(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return method(*map(self._named, args), **{k: self._named(v) for k, v in kwargs.items()})

        return call

    def _named(self, value: Any) -> Any:
        """``value`` with each key in it named. Objects of SGLang, which it reads again, stay as they are."""
        from sglang.srt.mem_cache.hicache_storage import HiCacheStorageExtraInfo, PoolTransfer

        if isinstance(value, str):
            return self.key(value)
        if isinstance(value, list):
            return [self._named(one) for one in value]
        if isinstance(value, PoolTransfer) and value.keys:
            return replace(value, keys=self._named(value.keys))
        if isinstance(value, HiCacheStorageExtraInfo) and value.prefix_keys:
            return replace(value, prefix_keys=self._named(value.prefix_keys))
        return value

    def key(self, key: str) -> str:
        """SGLang's key -> ours, of the same form: a hash as long as its own, and the same suffix."""
        named = hashlib.sha256(self._fingerprint + key[:_HASH].encode())
        return named.hexdigest() + key[_HASH:]


def after_create(result: Any, cls: type, *args: Any, **kwargs: Any) -> Any:
    """SGLang made a storage backend, at start or when one is attached later."""
    fingerprint = runtime.current().config.fingerprint()
    if fingerprint is None:  # both phases are stock DSA's
        return result
    logger.info("sglang-hisa: keys of HiCache storage name these settings (%s)", fingerprint)
    return NamedKeys(result, fingerprint)
