"""Plan: what a step decides for each of its rows, and what it counts of them, in one launch each.

Beside a decode step's layers these are all the launches that HISA makes itself; as PyTorch's they are
twenty-one, of a few elements each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_hisa import SHARE_ONE
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.sizes import cdiv

_ONE = tl.constexpr(SHARE_ONE)
_ROWS = 256
"""Rows of a program of the plan, and of a turn of the count's loop."""


# Compiled once, whatever the number of rows, where their lengths begin, and whether each has its own budget.
@triton.jit(do_not_specialize=["length_ptr", "blocks_ptr", "share_ptr", "blocks", "share", "each", "rows"])
def _plan_kernel(
    length_ptr,
    blocks_ptr,
    share_ptr,
    pick_ptr,
    candidate_ptr,
    blocks,
    share,
    each,
    rows,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    own = row < rows * each
    length = tl.load(length_ptr + row, mask=inside, other=0)
    share = tl.load(share_ptr + row, mask=own, other=share).to(tl.int64)
    fewest = tl.load(blocks_ptr + row, mask=own, other=blocks)
    earlier = tl.maximum(length - 1, 0) // BLOCK
    grown = (length * share + (_ONE * BLOCK - 1)) // (_ONE * BLOCK)
    pick = tl.minimum(tl.maximum(grown.to(tl.int32), fewest) - 1, earlier)
    tl.store(pick_ptr + row, pick, mask=inside)
    tl.store(candidate_ptr + row, length - (earlier - pick) * BLOCK, mask=inside)


@triton.jit(do_not_specialize=["length_ptr", "candidate_ptr", "sum_ptr", "padding", "rows"])
def _count_kernel(length_ptr, candidate_ptr, sum_ptr, padding, rows, ROWS: tl.constexpr):
    real = tl.zeros((ROWS,), dtype=tl.int64)
    seen = tl.zeros((ROWS,), dtype=tl.int64)
    scored = tl.zeros((ROWS,), dtype=tl.int64)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        length = tl.load(length_ptr + row, mask=row < rows, other=0)
        counts = (row < rows) & (length > padding)
        real += counts.to(tl.int64)
        seen += tl.where(counts, length, 0)
        scored += tl.load(candidate_ptr + row, mask=counts, other=0)
    tl.store(sum_ptr, tl.load(sum_ptr) + tl.sum(real, axis=0))
    tl.store(sum_ptr + 1, tl.load(sum_ptr + 1) + tl.sum(seen, axis=0))
    tl.store(sum_ptr + 2, tl.load(sum_ptr + 2) + tl.sum(scored, axis=0))


def plan_rows(
    lengths: torch.Tensor,
    blocks: torch.Tensor | int,
    share: torch.Tensor | int,
    block: int,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Earlier blocks to keep and candidate tokens of each row.

    Args:
        lengths: int32 ``[rows]``; 0 for a padded row.
        blocks, share: the row's :class:`~sglang_hisa.budget.Rule`: one for all, or both int32 ``[rows]``.
        block: tokens a block.

    Returns:
        (picks, candidate_lengths), both int32 ``[rows]``. A row that fits its budget has
        ``picks`` = its earlier blocks and ``candidate_lengths`` = its length.
    """
    if backend == "torch":
        return reference.plan_rows(lengths, blocks, share, block)
    rows = lengths.shape[0]
    picks, candidates = (torch.empty(rows, dtype=torch.int32, device=lengths.device) for _ in range(2))
    each = isinstance(blocks, torch.Tensor)
    if rows:
        _plan_kernel[(cdiv(rows, _ROWS),)](
            lengths,
            blocks if each else lengths,
            share if each else lengths,
            picks,
            candidates,
            0 if each else blocks,
            0 if each else share,
            int(each),
            rows,
            BLOCK=block,
            ROWS=_ROWS,
            num_warps=4,
        )
    return picks, candidates


def count_rows(
    lengths: torch.Tensor, candidates: torch.Tensor, padding: int, sums: torch.Tensor, backend: str
) -> None:
    """Add the rows of a step, their tokens and their candidates to ``sums``, int64 ``[3]``, in place.

    ``lengths``, ``candidates``: int32 ``[rows]``. Rows of up to ``padding`` tokens are left out.
    """
    if backend == "torch":
        reference.count_rows(lengths, candidates, padding, sums)
    elif lengths.shape[0]:
        rows = lengths.shape[0]
        _count_kernel[(1,)](lengths, candidates, sums, padding, rows, ROWS=_ROWS, num_warps=4)
