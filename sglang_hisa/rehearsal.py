"""Rehearsal: prefill steps of no request, so that no request waits for a compiler.

Triton and DeepGEMM compile a kernel when a step first needs it, in each server whose cache is empty: the
first long prompts would stand still for seconds at several lengths. What depends on a prompt's length is the
size of the pick kernel (powers of two of its blocks and candidate pages) and, by rows, how it is launched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from sglang_hisa import PAGE
from sglang_hisa.budget import Rule
from sglang_hisa.groups import MOST
from sglang_hisa.indexer import OVERLAP_ROWS, Output, Queries, select
from sglang_hisa.kernels.layout import FP8, HEAD_DIM
from sglang_hisa.kernels.pick import FEW_ROWS
from sglang_hisa.plan import Rows, Setup, make_prefill_plan
from sglang_hisa.segments import of_request
from sglang_hisa.summaries import LayerSummaries

STEPS = ((1, 0), (2, 0), (FEW_ROWS + MOST, 2), (OVERLAP_ROWS + MOST, FEW_ROWS + MOST))
"""Pruned rows and rows of a prompt's dense end, in groups: each way to launch. One row has no group, and a
dense end takes the rest of a group from the pruned rows."""


def lengths_of(rule: Rule, bound: int) -> Iterator[int]:
    """Prompts for every size of the kernels among those of up to ``bound`` tokens that are pruned.

    All but prompts within a block above a power of two, where one size has grown and another not yet.
    """
    length = rule.block
    while length < bound:
        if not rule.fits(length):
            yield length
        length *= 2
    if not rule.fits(bound):
        yield bound


def rehearse(
    rule: Rule,
    bound: int,
    layer: LayerSummaries,
    heads: int,
    setup: Setup,
    refine: str,
    output_of: Callable[[torch.Tensor], Output],
) -> int:
    """Choose tokens for made-up rows of prompts of up to ``bound`` tokens; how many steps that were.

    Reads page 0 of ``layer`` and writes nothing of the server's. ``output_of``: form of the choice, given
    what RAGGED rows would have for offsets (int32 ``[rows]``, zeros here).
    """
    device, tail, steps = layer.keys.device, setup.config.dense_tail_tokens, 0
    group = setup.config.prefill_group
    for length in lengths_of(rule, bound):
        table = torch.zeros((1, -(-length // PAGE)), dtype=torch.int32, device=device)
        for pruned, dense in STEPS:
            count = min(pruned + (dense if tail else 0), length)
            beyond = 1 - min(dense, tail) if dense else group  # a dense end begins with a group: none is near
            segments = of_request(0, count, length, rule, length + tail + beyond, tail, group)
            lengths = torch.arange(length - count + 1, length + 1, dtype=torch.int32, device=device)
            which = torch.zeros(count, dtype=torch.int32, device=device)
            rows = Rows.of_segments(lengths, table, which, segments)
            plan = make_prefill_plan(rows, [length], setup, refine, segments, heads=heads)
            q = torch.zeros((count, heads, HEAD_DIM), device=device).to(FP8)
            weights = torch.zeros((count, heads), device=device)
            select(Queries(q, weights, layer), plan, setup, output_of(which))
            steps += 1
    return steps
