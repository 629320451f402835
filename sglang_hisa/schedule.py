"""Work split of DeepGEMM's paged logits kernel, without DeepGEMM's kernel for it.

That one is compiled anew for every 32 rows more (``kAlignedBatchSize``), seconds each: a prefill's last chunk
may have any number of rows. A decode step has one of a few captured sizes and keeps it.
"""

from __future__ import annotations

import torch

SPLIT = 256
"""Tokens that a processor scores at a time, on Hopper and Blackwell (``SPLIT_KV``)."""


def work_split(lengths: torch.Tensor, processors: int) -> torch.Tensor:
    """First piece of each processor: (row, number of its piece of 256 tokens), and the end after the last.

    ``deep_gemm/include/deep_gemm/scheduler/sm90_paged_mqa_logits.cuh``: every processor takes as many pieces
    as every other, the last ones one more. A handful of launches, no host synchronisation.

    Args:
        lengths: int ``[rows]``, tokens of each row (of a pair: of its longer row).

    Returns:
        int32 ``[processors + 1, 2]``.
    """
    pieces = torch.div(lengths + (SPLIT - 1), SPLIT, rounding_mode="floor")
    ends = torch.nn.functional.pad(pieces.cumsum(0), (1, 0))
    processor = torch.arange(processors + 1, device=lengths.device)
    each = torch.div(ends[-1], processors, rounding_mode="floor")
    more = ends[-1] - each * processors
    first = processor * each + (processor - (processors - more)).clamp_min(0)
    row = torch.searchsorted(ends[1:], first, right=True)
    return torch.stack((row, first - ends[row]), dim=1).to(torch.int32)
