"""All ranks of a server must run the same HISA, or they would attend to different tokens: checked at start.

Through the store of the process group and not with a collective: a rank without HISA takes part in none
of ours, so the others would hang in it, or it would pair ours with one of SGLang's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from sglang_hisa import __version__
from sglang_hisa.patches import runtime
from sglang_hisa.patches.plugin import refuse

TIMEOUT_S = 120.0
"""Ranks met when the process group was made, shortly before; none is later than that."""


def facts(state: runtime.Runtime) -> dict[str, str]:
    """What must be the same on every rank, by name."""
    settings = {f'"{key}"': json.dumps(value) for key, value in asdict(state.config).items()}
    # Rows choose in groups on some GPUs alone (sglang_hisa/schedule.py).
    capability = state.gpu.version if state.gpu else "none"
    versions = {"sglang-hisa": __version__, "SGLang": state.sglang, "compute capability": capability}
    return {**versions, **settings}


def disagreements(
    store: Any, rank: int, world: int, own: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> list[str]:
    """Tell the other ranks, hear from them, and list what differs; the same list on every rank that has HISA.

    Args:
        store: ``torch.distributed.Store`` of the ``world`` ranks, for nothing else.
        own: the facts of this ``rank``.
        timeout_s: how long to wait for the others.
    """
    keys = [str(other) for other in range(world)]
    store.set(str(rank), json.dumps(own))
    try:
        store.wait(keys, timedelta(seconds=timeout_s))
    except RuntimeError:  # the timeout: DistStoreError or its base, by backend
        silent = [key for key in keys if not store.check([key])]
        return [f"rank {', '.join(silent)}: serves stock DSA, or did not start within {timeout_s:.0f} s"]
    found: list[dict[str, str]] = [json.loads(store.get(key)) for key in keys]
    problems = []
    for name in sorted(set().union(*found)):
        by_value: dict[str | None, list[str]] = {}
        for other, given in enumerate(found):
            by_value.setdefault(given.get(name), []).append(str(other))
        if len(by_value) > 1:
            parts = (f"{value} on rank {', '.join(ranks)}" for value, ranks in by_value.items())
            problems.append(f"{name} is " + ", ".join(parts))
    if problems:
        _leave_together(store, rank, keys)
    return problems


def _leave_together(store: Any, rank: int, keys: list[str]) -> None:
    """Wait until every rank has read: the store ends with the rank that made it, and this one is about to."""
    store.set(f"{rank} has read", "")
    with contextlib.suppress(RuntimeError):  # the store is gone, or a rank is: nothing more to wait for
        store.wait([f"{key} has read" for key in keys], timedelta(seconds=10))


def check_once(state: runtime.Runtime) -> None:
    """Stop this rank, and with it every other that has HISA, where the ranks of the server do not agree."""
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

    if state.agreed or not dist.is_initialized():
        return
    state.agreed = True
    store = PrefixStore("sglang_hisa", _get_default_store())
    problems = disagreements(store, dist.get_rank(), dist.get_world_size(), facts(state))
    if problems:
        refuse(
            "the ranks of this server do not run the same HISA",
            problems,
            "give every node the same sglang-hisa, SGLang and SGLANG_HISA",
        )
