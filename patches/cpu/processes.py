"""How SGLang's processes start on a CPU."""

from __future__ import annotations

from typing import Any


def forked(original: Any, method: str | None, force: bool = False) -> None:
    """``multiprocessing.set_start_method``: SGLang asks for ``spawn``, since CUDA does not survive a fork.

    A process that is spawned imports SGLang again, and three processes' imports were most of a start.
    """
    original("fork" if method == "spawn" else method, force=force)
