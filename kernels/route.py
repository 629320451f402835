"""Route: the heads that score the tokens of a row, those of the largest weights (MISA, arXiv 2605.07363)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import FP8, HEAD_DIM
from sglang_hisa.kernels.sizes import power_of_2


@triton.jit
def _route_kernel(
    byte_ptr,
    weight_ptr,
    out_byte_ptr,
    out_weight_ptr,
    q_stride,
    weight_stride,
    heads,
    KEPT: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)
    weight = tl.load(weight_ptr + row * weight_stride + head, mask=head < heads, other=0.0)
    # The bits of |w| have the order of |w| (NaN: as infinity). Real heads are above those that fill up.
    size = tl.minimum(weight.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0x7F800000) + 1
    size = tl.where(head < heads, size.to(tl.uint32, bitcast=True), 0)
    sooner = head[None, :] < head[:, None]
    ahead = (size[None, :] > size[:, None]) | ((size[None, :] == size[:, None]) & sooner)
    kept = tl.sum(ahead.to(tl.int32), axis=1) < KEPT
    place = tl.cumsum(kept.to(tl.int32), axis=0) - 1
    to = tl.arange(0, KEPT)
    here = kept[None, :] & (place[None, :] == to[:, None])
    source = tl.sum(tl.where(here, head[None, :], 0), axis=1)
    dim = tl.arange(0, DIM)
    byte = tl.load(byte_ptr + row * q_stride + source[:, None] * DIM + dim[None, :])
    tl.store(out_byte_ptr + (row * KEPT + to[:, None]) * DIM + dim[None, :], byte)
    value = tl.sum(tl.where(here, weight[None, :], 0.0), axis=1)
    tl.store(out_weight_ptr + row * KEPT + to, value)


def route_heads(
    q: torch.Tensor, weights: torch.Tensor, kept: int, backend: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and weights of each row's ``kept`` heads of the largest ``|weight|``, in ascending order.

    Of equal ones the earlier head is taken. The scores of :func:`sglang_hisa.kernels.refine_logits` take
    ``kept / heads`` of the arithmetic with them.

    Args:
        q: fp8 ``[rows, heads, 128]``; weights: fp32 ``[rows, heads]``.
        kept: a power of two, at most ``heads``.

    Returns:
        fp8 ``[rows, kept, 128]`` and fp32 ``[rows, kept]``.

    Raises:
        ValueError: ``kept`` is another number, or q is not contiguous over heads and dims.
    """
    rows, heads = q.shape[:2]
    if not 0 < kept <= heads or kept & (kept - 1):
        raise ValueError(f"kept must be a power of two up to {heads} heads, not {kept}")
    if backend == "torch":
        return reference.route_heads(q, weights, kept)
    if q.stride(-1) != 1 or q.stride(-2) != HEAD_DIM or weights.stride(-1) != 1:
        raise ValueError("q and weights must be contiguous over heads and dims")
    out_q = torch.empty((rows, kept, HEAD_DIM), dtype=FP8, device=q.device)
    out_weights = torch.empty((rows, kept), dtype=torch.float32, device=q.device)
    if rows:
        _route_kernel[(rows,)](
            q.view(torch.uint8),
            weights,
            out_q.view(torch.uint8),
            out_weights,
            q.stride(0),
            weights.stride(0),
            heads,
            KEPT=kept,
            HEADS=power_of_2(heads),
            DIM=HEAD_DIM,
            num_warps=1,
        )
    return out_q, out_weights
