"""How DeepGEMM's paged logits are called: in how many calls, and with which split of the work.

On Hopper (compute capability 9) prefill makes the split without DeepGEMM's kernel for it. That one is
compiled anew for every 32 rows more (``kAlignedBatchSize``), seconds each: a prefill's last chunk may have
any number of rows. A decode step has one of a few captured sizes and keeps DeepGEMM's kernel.

Elsewhere DeepGEMM makes every split, rows stand alone, and a call has at most as many of them as the GPU has
multiprocessors. Blackwell's scheduler (``sm100_paged_mqa_logits.cuh``) counts query tokens where Hopper's
(``sm90_paged_mqa_logits.cuh``) counts pairs: it takes Hopper's split without an error and scores pieces of
other rows. Stock 0.5.23 cuts its calls so (``_chunked_fp8_paged_mqa_logits`` in ``dsa_indexer.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sglang_hisa.groups import MOST

if TYPE_CHECKING:
    from sglang_hisa.stock_kernels import StockKernels

PAIR = 2
"""Most rows for which DeepGEMM's kernel for Hopper loads a page once; larger groups are called as pairs."""
SPLIT = 256
"""Tokens that a processor scores at a time on Hopper (``SPLIT_KV``)."""


@dataclass(frozen=True)
class Device:
    """What decides how DeepGEMM's paged logits are called."""

    processors: int
    """Multiprocessors that the kernel will use."""
    capability: tuple[int, int] | None
    """Compute capability; None on a CPU, whose stand-ins take what Hopper's kernels take."""

    @property
    def hopper(self) -> bool:
        """Whether prefill makes its own split and rows may stand in groups."""
        return self.capability is None or self.capability[0] == 9

    @property
    def group(self) -> int:
        """Most rows that may choose their pages together."""
        return MOST if self.hopper else 1

    def rows_per_call(self, rows: int) -> int:
        """How many of ``rows`` a call may have, at least 1."""
        return max(rows if self.hopper else min(rows, self.processors), 1)


@dataclass(frozen=True)
class Call:
    """One call of DeepGEMM's paged logits."""

    start: int
    """First of its groups of rows."""
    stop: int
    split: Any
    """DeepGEMM's ``schedule_meta``."""


def decode_calls(lengths: torch.Tensor, stock: StockKernels) -> tuple[Call, ...]:
    """Calls for int32 ``[groups, group]`` lengths, with DeepGEMM's own split; none for no rows."""
    groups = lengths.shape[0]
    step = stock.device.rows_per_call(groups)
    starts = range(0, groups, step)
    return tuple(Call(at, min(at + step, groups), stock.schedule(lengths[at : at + step])) for at in starts)


def prefill_calls(lengths: torch.Tensor, stock: StockKernels) -> tuple[Call, ...]:
    """The same for a number of rows that may be any; of a group the last row is the longest."""
    if not stock.device.hopper:
        return decode_calls(lengths, stock)
    return (Call(0, lengths.shape[0], work_split(lengths[:, -1], stock.device.processors)),)


def paged_logits(
    stock: StockKernels,
    calls: tuple[Call, ...],
    q: torch.Tensor,
    index_k: torch.Tensor,
    weights: torch.Tensor,
    lengths: torch.Tensor,
    table: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """fp32 ``[rows, width]`` of all calls; other arguments as in :meth:`StockKernels.paged_logits`."""
    if len(calls) == 1:
        return stock.paged_logits(q, index_k, weights, lengths, table, calls[0].split, width)
    group = lengths.shape[1]
    logits = torch.empty((q.shape[0], width), dtype=torch.float32, device=q.device)
    for call in calls:
        groups, rows = slice(call.start, call.stop), slice(call.start * group, call.stop * group)
        logits[rows] = stock.paged_logits(
            q[rows],
            index_k,
            weights[rows],
            lengths_2d=lengths[groups],
            table=table[groups],
            schedule=call.split,
            max_length=width,
        )
    return logits


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


def ragged_lengths(rows: int, group: int) -> torch.Tensor:
    """Made-up int32 ``[rows, group]`` lengths: none, one, whole pieces, odd ones, several pieces."""
    some = (0, 1, SPLIT, 2049, 6 * SPLIT + 1, 3 * SPLIT, 8999)
    last = torch.tensor([some[row % len(some)] + row // len(some) for row in range(rows)], dtype=torch.int32)
    return (last[:, None] - torch.arange(group - 1, -1, -1, dtype=torch.int32)).clamp_min(0)


def differences(stock: StockKernels, device: torch.device) -> list[str]:
    """Where :func:`work_split` is not the split that DeepGEMM makes, in words; empty where it is not used.

    DeepGEMM has no error for a wrong split, only wrong scores. Waits for the GPU. The row counts need two
    of DeepGEMM's kernels.
    """
    if not stock.device.hopper:
        return []
    found = []
    for rows, group in ((1, 1), (31, 1), (31, 2), (45, 1), (45, 2)):
        what, lengths = f"{rows} x {group} rows", ragged_lengths(rows, group).to(device)
        own, theirs = work_split(lengths[:, -1], stock.device.processors), stock.schedule(lengths)
        if own.shape != theirs.shape:
            found.append(f"{what}: its split is {list(theirs.shape)}, not {list(own.shape)}")
        elif bool((wrong := (own != theirs).any(dim=1)).any()):
            at = int(wrong.nonzero()[0])
            found.append(f"{what}: processor {at} begins at {theirs[at].tolist()}, not {own[at].tolist()}")
    return found
