"""Pairs of adjacent prefill rows that choose their pages together, so that one load of a key serves both.

A pair is the row of an even position (from 0) of its request and the row after it: both lie in the same page,
so their candidates differ by the last token alone, and a pair fits its budget exactly if each row does. A row
without its partner in the step (the request starts at an odd position, or ends at an even one) stands twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

GROUP = 2
"""Rows that choose together. DeepGEMM's kernel for Hopper loads a page once for two rows, not for more."""


def arrange(contexts: Sequence[int], counts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Order in which a step's rows stand in pairs.

    Args:
        contexts: tokens of each request, the step's own included.
        counts: rows of each request in this step, its last ones; one request after the other.

    Returns:
        (order, back), both int64 on the host: arranged row i is the step's row ``order[i]``, and the step's
        row i is arranged row ``back[i]``. None where the rows stand in pairs already.
    """
    order, back, start, at = [], [], 0, 0
    for context, count in zip(contexts, counts):
        lead = (context - count) % GROUP if count else 0
        whole = lead + count + (context % GROUP if count else 0)
        order.append((torch.arange(whole) + (start - lead)).clamp(start, start + max(count, 1) - 1))
        back.append(torch.arange(count) + (at + lead))
        start, at = start + count, at + whole
    return None if at == start else (torch.cat(order), torch.cat(back))


def last_of_each(lengths: torch.Tensor) -> torch.Tensor:
    """The longer length of each pair, for both of its rows: int32 ``[rows]`` -> int32 ``[rows]``."""
    return lengths.view(-1, GROUP).amax(dim=1).repeat_interleave(GROUP)
