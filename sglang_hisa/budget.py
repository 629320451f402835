"""How many blocks each row keeps: budgets in tokens turned into block counts, once per forward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sglang_hisa import PAGE, SHARE_ONE
from sglang_hisa.config import Config

FLAT_TOPK = 16384
"""Candidate tokens from which on stock's top-k kernel takes about as long for any number of them: 6.6 us for
16K, 11.8 for 32K, 14.4 for 128K (``launch/results/kernels-h100.json``, one row)."""
PAYS, PAYS_FLAT = 1 << 20, 131072
"""Tokens that a decode step must leave unread, in all rows, for pruning to pay: reading them takes longer
than the filter. The second is for budgets of up to ``FLAT_TOPK``, the first for larger ones.

With SGLang 0.5.23 and a budget of 8K, four rows of 32K, 96K unread, decode at 0.98 of stock's speed, and 16,
384K unread, at 1.06 (``ab-many-32k``); one row of 128K, 120K unread, at 1.00 (``ab-served``). With a budget
of 32K, four rows of 128K and of 256K, 384K and 896K unread, decode at 0.99 and 0.97, 16 rows of 128K, 1.5M
unread, at 1.09 (``ab-many``, ``ab-many-256k``); nothing between has been measured."""

KEEP_ALL = 1 << 30
"""A number of blocks that no row has: such a row keeps its whole page table (stock DSA's choice)."""


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Rule:
    """The budget of one phase in blocks: ``max(blocks, ceil(share * context))``, the row's own included."""

    blocks: int
    share: int
    """Fraction of the context, in 1/65536."""
    block: int
    """Tokens a block."""
    heads: float = 1.0
    """Share of the index heads that score the tokens of a row with more than ``blocks`` blocks; up to there a
    row is stock DSA's."""

    def count(self, length: int) -> int:
        """Blocks that a row of ``length`` tokens may keep."""
        return max(self.blocks, _ceil_div(length * self.share, SHARE_ONE * self.block))

    def fits(self, length: int) -> bool:
        """Whether such a row keeps its whole page table and all heads: its choice is stock DSA's."""
        blocks = self.blocks if self.heads < 1 else self.count(length)
        return blocks >= _ceil_div(length, self.block)

    def pays(self, lengths: Sequence[int]) -> bool:
        """Whether a decode step of these rows is faster pruned than with stock DSA: if enough is unread."""
        longest = max(lengths)
        if self.fits(longest):
            return False
        left = PAYS if self.count(longest) * self.block > FLAT_TOPK else PAYS_FLAT
        for length in lengths:
            left -= max(0, length - self.count(length) * self.block)
            if left <= 0:
                return True
        return False

    def width(self, max_length: int) -> int:
        """Pages of the widest candidate row among lengths up to ``max_length``."""
        per_block = self.block // PAGE
        return min(self.count(max_length) * per_block, _ceil_div(max_length, PAGE))


KEEP_EVERYTHING = Rule(KEEP_ALL, 0, PAGE)


def make_rule(config: Config, phase: str, index_topk: int, init_tokens: int, local_tokens: int) -> Rule:
    """The rule of ``phase`` ("decode" or "prefill"); a phase left to stock DSA keeps everything.

    A row must hold at least ``min(length, index_topk)`` candidate tokens even when its own block holds
    one token (fa3 does not mask -1), and all of its sink and local blocks (of a group: of all its rows).
    """
    setting = getattr(config, phase)
    block = config.block
    if not setting.active:
        return Rule(KEEP_ALL, 0, block)
    floor = _ceil_div(index_topk, block) + 1
    forced = sink_blocks(config, init_tokens) + _ceil_div(local_window(config, local_tokens), block) + 1
    share = _ceil_div(round(setting.fraction * (1 << 32)), 1 << 16)
    return Rule(max(_ceil_div(setting.tokens, block), floor, forced), share, block, setting.heads)


def routed_heads(share: float, heads: int) -> int:
    """How many of ``heads`` score tokens: the smallest power of two that is at least ``share`` of them."""
    wanted = max(1, math.ceil(share * heads))
    return min(heads, 1 << (wanted - 1).bit_length())


def local_window(config: Config, local_tokens: int) -> int:
    """Tokens before a row's end that are always candidates, the model's ``index_local_tokens`` among them.

    Wider where prefill rows choose in groups: the window of a group is that of all its rows, and a row's
    window must not depend on how many of them the step has or on whether it comes in a decode step.
    """
    return max(config.local_tokens, local_tokens) + config.prefill_group - 1


def sink_blocks(config: Config, init_tokens: int) -> int:
    """Leading blocks that are always candidates; the model's ``index_init_tokens`` are among them."""
    return max(1, _ceil_div(max(config.sink_tokens, init_tokens), config.block))
