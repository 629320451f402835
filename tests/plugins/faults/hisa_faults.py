"""SGLang plugin of the tests: HISA that forgets its seals, or what it owes to a mover, or sleeps.

``FORGET_SEALS``: once 5 pages of layer 1 were sealed, that layer forgets its seals.
``FORGET_MOVES``: while the file of this name exists, pages that something moved are not sealed again.
``KEEP_CACHE``: while the file of this name exists, SGLang keeps its radix cache where it should flush it.
``SLOW_PREFILL``: seconds that layer 0 sleeps before it seals more than a page of tokens.
"""

import os
import time
from pathlib import Path

PAGE, HONEST = 64, 5


def register():
    from sglang_hisa.summaries import PageSummaries

    if "FORGET_SEALS" in os.environ:
        PageSummaries.seal_tokens = forget_seals(PageSummaries.seal_tokens)
    if "SLOW_PREFILL" in os.environ:
        PageSummaries.seal_tokens = slow(PageSummaries.seal_tokens, float(os.environ["SLOW_PREFILL"]))
    if "FORGET_MOVES" in os.environ:
        PageSummaries.reseal = forget_moves(PageSummaries.reseal, Path(os.environ["FORGET_MOVES"]))
    if "KEEP_CACHE" in os.environ:
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

        HookRegistry.register("sglang.srt.managers.scheduler.Scheduler.flush_cache", keep, HookType.AROUND)


def forget_seals(honest):
    sealed = []

    def seal_tokens(self, layer_id, slots):
        for layer in self.served(range(99)) if layer_id is None else [layer_id]:
            if layer != 1 or len(sealed) < HONEST:
                honest(self, layer, slots)
            if layer == 1:
                sealed.extend(slots[slots % PAGE == PAGE - 1].tolist())

    return seal_tokens


def forget_moves(honest, switch):
    def reseal(self, pages, layer_id=None):
        if not switch.exists():
            honest(self, pages, layer_id)

    return reseal


def keep(honest, self, *args, **kwargs):
    return Path(os.environ["KEEP_CACHE"]).exists() or honest(self, *args, **kwargs)


def slow(honest, seconds):
    def seal_tokens(self, layer_id, slots):
        if layer_id == 0 and slots.numel() > PAGE:
            time.sleep(seconds)
        honest(self, layer_id, slots)

    return seal_tokens
