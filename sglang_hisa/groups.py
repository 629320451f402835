"""Groups of adjacent prefill rows that choose their pages together, so that one load of a key serves all.

A group is the rows of a multiple of its size (from position 0 of a request) and the positions after it. They
lie in the same page, so their candidates differ by the last tokens alone, and a group fits its budget exactly
if each row does. Where rows are missing from the step (the request starts or ends inside a group), the first
or the last row that is there stands in their places, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

MOST = 16
"""Rows of the largest group."""


class Run(Protocol):
    """Rows of one request that follow one another (:class:`sglang_hisa.segments.Segment`)."""

    @property
    def start(self) -> int:
        """First of them among the rows of the step."""

    @property
    def count(self) -> int:
        """How many; at least 1."""

    @property
    def context(self) -> int:
        """Tokens that the last of them sees."""


def places(run: Run, group: int) -> int:
    """Rows of a run once they stand in groups."""
    return (run.context - run.count) % group + run.count + -run.context % group


def arrange(runs: Sequence[Run], group: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Order in which the rows of a step stand run by run, in groups of ``group`` rows.

    Returns:
        (order, back), both int64 on the host: arranged row i is the step's row ``order[i]``, and the step's
        row i is arranged row ``back[i]``. None where the rows stand so already.
    """
    order, back, at = [], torch.empty(sum(run.count for run in runs), dtype=torch.int64), 0
    for run in runs:
        lead, stop = (run.context - run.count) % group, run.start + run.count
        order.append((torch.arange(places(run, group)) + (run.start - lead)).clamp(run.start, stop - 1))
        back[run.start : stop] = torch.arange(run.count) + (at + lead)
        at += order[-1].shape[0]
    whole = torch.cat(order)
    return None if torch.equal(whole, torch.arange(back.shape[0])) else (whole, back)


def last_of_each(lengths: torch.Tensor, group: int) -> torch.Tensor:
    """The longest length of each group, for all of its rows: int32 ``[rows]`` -> int32 ``[rows]``."""
    return lengths.view(-1, group).amax(dim=1).repeat_interleave(group)
