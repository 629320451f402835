"""SGLang plugin of the tests: HISA that forgets its seals, or what it owes to a mover.

``FORGET_SEALS``: once 5 pages of layer 1 were sealed, that layer forgets its seals.
``FORGET_MOVES``: while the file of this name exists, pages that something moved are not sealed again.
"""

import os
from pathlib import Path

PAGE, HONEST = 64, 5


def register():
    from sglang_hisa.summaries import PageSummaries

    if "FORGET_SEALS" in os.environ:
        PageSummaries.seal_tokens = forget_seals(PageSummaries.seal_tokens)
    if "FORGET_MOVES" in os.environ:
        PageSummaries.reseal = forget_moves(PageSummaries.reseal, Path(os.environ["FORGET_MOVES"]))


def forget_seals(honest):
    sealed = []

    def seal_tokens(self, layer_id, slots):
        if layer_id != 1 or len(sealed) < HONEST:
            honest(self, layer_id, slots)
        if layer_id == 1:
            sealed.extend(slots[slots % PAGE == PAGE - 1].tolist())

    return seal_tokens


def forget_moves(honest, switch):
    def reseal(self, pages, layer_id=None):
        if not switch.exists():
            honest(self, pages, layer_id)

    return reseal
