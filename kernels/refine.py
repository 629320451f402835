"""Refine: the indexer's token scores inside the candidates, for machines or shapes without DeepGEMM."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sglang_hisa import PAGE
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import HEAD_DIM, KEY_BYTES, key_view, scale_view
from sglang_hisa.kernels.sizes import cdiv, power_of_2
from sglang_hisa.kernels.tuning import Tuning, for_device

ANY_KIND = ("length_ptr", "table_stride", "rows", "pages")
"""Arguments that differ from step to step: not compiled anew for each kind of them."""


@triton.jit(do_not_specialize=ANY_KIND)
def _refine_kernel(
    q_ptr,
    weight_ptr,
    key_ptr,
    scale_ptr,
    table_ptr,
    length_ptr,
    out_ptr,
    q_stride,
    weight_stride,
    row_bytes,
    row_floats,
    table_stride,
    out_stride,
    rows,
    heads,
    pages,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PAGE: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * GROUP
    first = tl.program_id(1) * pages
    member = tl.arange(0, GROUP)
    lengths = tl.load(length_ptr + row + member, mask=row + member < rows, other=0)
    length = tl.max(lengths, axis=0)
    if not OVERLAP and first * PAGE >= length:
        return
    # One product gives the scores of all heads of a group's rows. Of each eight columns of it a thread holds
    # the same two: up to four rows take turns, two columns each, so that a thread adds up the heads of a row
    # by itself instead of exchanging sums with three others.
    LANES: tl.constexpr = min(4, GROUP)
    STEPS: tl.constexpr = HEADS // 2
    column = tl.arange(0, GROUP * HEADS)
    lane, step = (column // 2) % LANES, column // 2 // LANES
    source = row + step // STEPS * LANES + lane
    head = step % STEPS * 2 + column % 2
    real = (head < heads) & (source < rows)
    dim = tl.arange(0, DIM)
    token = tl.arange(0, PAGE)
    q = tl.load(
        q_ptr + source[None, :] * q_stride + head[None, :] * DIM + dim[:, None],
        mask=real[None, :],
        other=0.0,
    )
    weight = tl.load(weight_ptr + source * weight_stride + head, mask=real, other=0.0)
    if OVERLAP:
        # The pick lets this kernel start only after its own wait: all that came before the pick has ended.
        # Programs beyond the length wait, too, so that whoever waits for this kernel waits for the pick.
        gdc_wait()
        # Not before: the top-k reads the pick's table, and need not wait before it does.
        gdc_launch_dependents()
    last = tl.minimum(first + pages, (length + PAGE - 1) // PAGE)
    # Said of the loop, the stages hold for scales, too: the launch option is for what a product reads.
    for at in tl.range(first, last, num_stages=STAGES):
        page = tl.load(table_ptr + row * table_stride + at).to(tl.int64)
        key = tl.load(key_ptr + page * row_bytes + token[:, None] * DIM + dim[None, :])
        scale = tl.load(scale_ptr + page * row_floats + KEY_BYTES // 4 + token)
        score = tl.dot(key, q)
        total = tl.maximum(score, 0.0) * weight[None, :]
        total = tl.sum(tl.reshape(total, (PAGE, GROUP // LANES, STEPS, LANES, 2)), axis=4)
        total = tl.reshape(tl.sum(total, axis=2), (PAGE, GROUP)) * scale[:, None]
        to = at * PAGE + token
        out = out_ptr + (row + member)[None, :] * out_stride + to[:, None]
        tl.store(out, total, mask=to[:, None] < lengths[None, :])


COLUMNS = 256
"""Most columns of a product, heads x rows: a larger group is scored in parts."""


def pages_of_program(groups: int, width: int, tuning: Tuning) -> int:
    """A power of two, up to ``refine_pages``: few rows need many programs, many would rather load q once."""
    pages = max(1, groups * width // tuning.refine_programs)
    return min(tuning.refine_pages, 1 << (pages.bit_length() - 1))


def refine_logits(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor,
    backend: str,
    *,
    group: int = 1,
    overlap: bool = False,
    tuning: Tuning | None = None,
) -> None:
    """Score the tokens of each row's candidate pages (arXiv 2603.28458, stage 2: the DSA score).

    Args:
        q: fp8 ``[rows, heads, 128]``; weights: fp32 ``[rows, heads]``.
        index_k: uint8 ``[pages, 8448]``.
        table: int32 ``[rows, width]`` candidate pages; lengths: int32 ``[rows]`` candidate tokens.
        out: fp32 ``[rows, width * 64]``; columns from ``lengths`` on are left as they are.
        group: so many adjacent rows have the same pages, which are then loaded once (a power of two).
        overlap: programmatic dependent launch (sm_90); only the table may be the predecessor's, which must be
            :func:`sglang_hisa.kernels.pick_pages`. All else is read before the wait.
        tuning: how the kernel is launched; None: those of the device.
    """
    if backend == "torch":
        reference.refine_logits(q, weights, index_k, table, lengths, out)
        return
    if q.stride(-1) != 1 or q.stride(-2) != HEAD_DIM or weights.stride(-1) != 1:
        raise ValueError("q and weights must be contiguous over heads and dims")
    rows, heads = q.shape[:2]
    if not rows:
        return
    tuning = tuning or for_device(q.device)
    group = min(group, max(1, COLUMNS // power_of_2(heads)))
    groups = cdiv(rows, group)
    pages = pages_of_program(groups, table.shape[1], tuning)
    _refine_kernel[(groups, cdiv(table.shape[1], pages))](
        q,
        weights,
        key_view(index_k),
        scale_view(index_k),
        table,
        lengths,
        out,
        q.stride(0),
        weights.stride(0),
        index_k.stride(0),
        index_k.stride(0) // 4,
        table.stride(0),
        out.stride(0),
        rows,
        heads,
        pages,
        GROUP=group,
        HEADS=max(16 if group == 1 else 8, power_of_2(heads)),
        DIM=HEAD_DIM,
        PAGE=PAGE,
        KEY_BYTES=KEY_BYTES,
        STAGES=tuning.refine_stages if group <= 2 else tuning.refine_stages_shared,
        OVERLAP=overlap,
        num_warps=tuning.refine_warps,
        **({"launch_pdl": True} if overlap else {}),
    )
