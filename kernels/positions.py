"""Map positions in a candidate row back to slots, for top-k kernels that take no page table."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_hisa import PAGE
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.sizes import power_of_2


@triton.jit(do_not_specialize=["offset_ptr", "table_stride"])  # else compiled anew for each kind of them
def _map_kernel(
    position_ptr,
    table_ptr,
    offset_ptr,
    out_ptr,
    count,
    position_stride,
    table_stride,
    out_stride,
    PAGE: tl.constexpr,
    COUNT: tl.constexpr,
    OFFSETS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COUNT)
    position = tl.load(position_ptr + row * position_stride + column, mask=column < count, other=-1)
    valid = position >= 0
    page = tl.load(table_ptr + row * table_stride + position // PAGE, mask=valid, other=0)
    slot = page * PAGE + position % PAGE
    if OFFSETS:
        slot += tl.load(offset_ptr + row).to(tl.int32)
    tl.store(out_ptr + row * out_stride + column, tl.where(valid, slot, -1), mask=column < count)


def map_positions(
    positions: torch.Tensor, table: torch.Tensor, offsets: torch.Tensor | None, backend: str
) -> torch.Tensor:
    """``table[row, p // 64] * 64 + p % 64 (+ offsets[row])`` for each position ``p``; -1 stays -1.

    Args:
        positions: int32 ``[rows, k]`` in the candidate row, -1 where there is none.
        table: int32 ``[rows, width]``: physical pages give KV slots, logical pages request positions.
        offsets: int32 ``[rows]`` added to each, or None.

    Returns:
        int32 ``[rows, k]``.
    """
    if backend == "torch":
        return reference.map_positions(positions, table, offsets)
    out = torch.empty_like(positions, dtype=torch.int32)
    rows, count = positions.shape
    if out.numel():
        _map_kernel[(rows,)](
            positions,
            table,
            positions if offsets is None else offsets,
            out,
            count,
            positions.stride(0),
            table.stride(0),
            out.stride(0),
            PAGE=PAGE,
            COUNT=power_of_2(count),
            OFFSETS=offsets is not None,
            num_warps=4,
        )
    return out
