"""How SGLang's processes start on a CPU."""

from __future__ import annotations

import sys
from typing import Any


def forked(original: Any, method: str | None, force: bool = False) -> None:
    """``multiprocessing.set_start_method``: SGLang asks for ``spawn``, since CUDA does not survive a fork.

    A process that is spawned imports SGLang again, and three processes' imports were most of a start.
    """
    original("fork" if method == "spawn" else method, force=force)
    values: Any = sys.modules.get("prometheus_client.values")
    if values is not None:
        # Chosen at its import, by a variable that SGLang sets just before it comes here.
        values.ValueClass = values.get_value_class()
