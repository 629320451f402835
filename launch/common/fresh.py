"""Measured prompts must be new to every cache, or a time to the first token is not that of a prefill.

Flushing a server clears its radix cache and HiCache's host tier, not a HiCache storage (L3), which keeps
prompts of earlier runs and of other servers.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sglang_hisa import PAGE

KEPT = "a flush does not clear a HiCache storage (L3)"
FIX = f"{KEPT}: drop --hicache-storage-backend, or give it an empty folder or namespace of its own"


def nonce() -> str:
    """16 hex digits unlike those of any other run."""
    return secrets.token_hex(8)


def old(cached: Sequence[int | None]) -> list[int]:
    """Cached tokens of the prompts that were not new; None: the server did not say.

    Fewer than a page are no hit: servers with smaller pages share a first token by chance.
    """
    return [tokens for tokens in cached if tokens is not None and tokens >= PAGE]


def was_old(found: Sequence[int], prompts: int, where: str) -> str:
    """The refusal of a load of ``prompts``, ``found`` as :func:`old` gives it."""
    return (
        f"{where}: {len(found)} of {prompts} prompts were not new: of one, {max(found)} tokens came from a "
        f"cache. Times to the first token would be too short; {FIX}"
    )
