"""SGLang plugin of the tests: random delays before stores, selections, loads and seals, so that a race
becomes a wrong summary or answer.

For ``python -m sglang_hisa.launch.acceptance.stress --jitter MS``, which sets JITTER_MS; stock servers are
left alone. On a GPU half of the delays are kernels on the current stream (that of a HiCache load is SGLang's
load stream), half are the host's; on a CPU all are the host's, in the one thread that loads, stores and
reads, so that little can go wrong there.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sglang_hisa.patches import contract
from sglang_hisa.summaries import PageSummaries

logger = logging.getLogger(__name__)

BEFORE = (
    "indexer:after_store",
    "indexer:after_fused_store",
    "indexer:around_topk_paged",
    "indexer:around_topk_ragged",
    "pool:after_host_load",
)
"""Hooks of the patch table whose targets, in SGLang, are delayed."""
_CYCLES = 1.5e9
"""GPU clock cycles a second, about."""


class Jitter:
    """Delays of up to ``seconds``, in every other call or so."""

    def __init__(self, seconds: float, seed: int = 0) -> None:
        self._seconds, self._random = seconds, random.Random(seed)

    def delay(self, *args: Any, **kwargs: Any) -> None:
        """Takes what the delayed function takes. During a graph capture, kernels are captured with it."""
        if self._random.random() < 0.5:
            return
        seconds = self._random.uniform(0, self._seconds)
        if torch.cuda.is_available() and self._random.random() < 0.5:
            torch.cuda._sleep(int(seconds * _CYCLES))
        else:
            time.sleep(seconds)

    def before(self, function: Callable[..., None]) -> Callable[..., None]:
        def delayed(*args: Any, **kwargs: Any) -> None:
            self.delay()
            function(*args, **kwargs)

        return delayed


def register() -> None:
    """Delays come after HISA's hooks, outermost, whichever plugin is loaded first."""
    if "JITTER_MS" not in os.environ or "SGLANG_HISA" not in os.environ:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry

    apply = HookRegistry.apply_hooks

    def last_and_apply() -> None:
        install(float(os.environ["JITTER_MS"]), contract.installed_root())
        apply()

    HookRegistry.apply_hooks = staticmethod(last_and_apply)


def install(milliseconds: float, root: Path) -> None:
    """Register the delays of SGLang's functions, which it applies next; delay HISA's seals at once."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    jitter = Jitter(milliseconds / 1000)
    targets = [one.target for one in contract.read(root).patches if one.patch.hook in BEFORE]
    for target in targets:
        HookRegistry.register(target, jitter.delay, HookType.BEFORE)
    PageSummaries.seal_tokens = jitter.before(PageSummaries.seal_tokens)
    PageSummaries.seal_rows = jitter.before(PageSummaries.seal_rows)
    PageSummaries.reseal = jitter.before(PageSummaries.reseal)
    logger.warning(
        "sglang-hisa jitter: up to %g ms before seals and %s",
        milliseconds,
        ", ".join(target.rsplit(".", 1)[1] for target in targets),
    )
