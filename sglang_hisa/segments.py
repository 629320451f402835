"""Rows of an extend step, cut where a request or a budget ends.

Rows of a prompt's last tokens may keep their whole context (``dense_tail_tokens``). Their candidate tables
are as wide as the context; the other rows' stay as narrow as their budget, so the two are planned apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sglang_hisa.budget import KEEP_EVERYTHING, Rule
from sglang_hisa.transfer import to_device


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one request that have one budget."""

    start: int
    """First of them among the rows of the step."""
    count: int
    context: int
    """Tokens that the last of them sees."""
    rule: Rule

    @property
    def fits(self) -> bool:
        """Whether all of them keep their whole page table."""
        return self.rule.fits(self.context)

    @property
    def routed(self) -> bool:
        """Whether few heads score their tokens."""
        return self.rule.heads < 1 and not self.fits

    @property
    def width(self) -> int:
        """Pages of the widest candidate row."""
        return self.rule.width(self.context)


def of_request(
    start: int, count: int, context: int, rule: Rule, prompt: int, tail: int, group: int = 2
) -> list[Segment]:
    """Rows of a request; those of the last ``tail`` tokens of its prompt keep everything.

    ``context``: tokens that the last row sees; ``prompt``: tokens of the prompt. A cut lies between two
    groups of ``group`` rows or of two (:mod:`sglang_hisa.groups`), never inside: a few rows more are kept.
    """
    step = max(2, group)
    cut = max(prompt - tail, 0) // step * step
    dense = min(max(context - cut, 0), count) if tail else 0
    pruned = count - dense
    # Where few heads score the tokens of a row beyond its budget, the rows within it are scored apart.
    within = min(max(rule.blocks * rule.block - (context - count), 0), pruned) if rule.heads < 1 else 0
    counts = ((within, rule), (pruned - within, rule), (dense, KEEP_EVERYTHING))
    found, seen = [], context - count
    for rows, budget in counts:
        seen += rows
        if rows:
            found.append(Segment(start, rows, seen, budget))
        start += rows
    return found


def in_parts(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Those no wider than the widest pruned one, and then the others; of both, those that few heads score
    and then those that all do. Empty parts are left out."""
    narrow = max((segment.width for segment in segments if not segment.fits), default=None)
    parts: tuple[list[Segment], ...] = ([], [], [], [])
    for segment in segments:
        wide = narrow is not None and segment.width > narrow
        parts[2 * wide + (not segment.routed)].append(segment)
    return [part for part in parts if part]


def budgets(
    segments: Sequence[Segment], device: torch.device
) -> tuple[torch.Tensor | int, torch.Tensor | int]:
    """Blocks and share (:class:`sglang_hisa.budget.Rule`) of all rows, or of each: int32 ``[rows]``."""
    rules = [segment.rule for segment in segments]
    if len(set(rules)) == 1:
        return rules[0].blocks, rules[0].share
    values = to_device(torch.tensor([(rule.blocks, rule.share) for rule in rules], dtype=torch.int32), device)
    counts = [segment.count for segment in segments]
    # Spread on the device: the copy is as long as the step has requests, not rows.
    each = values.repeat_interleave(to_device(torch.tensor(counts), device), dim=0, output_size=sum(counts))
    return each[:, 0].contiguous(), each[:, 1].contiguous()
