"""The two-stage indexer of one layer: coarse filter, candidate page table, stock score, stock top-k.

:func:`select` carries out what :mod:`sglang_hisa.plan` decided for the rows of the step.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa.budget import local_window, sink_blocks
from sglang_hisa.kernels.tuning import Tuning
from sglang_hisa.plan import Chunk, Plan, Setup
from sglang_hisa.schedule import PAIR, paged_logits
from sglang_hisa.summaries import LayerSummaries

OVERLAP_ROWS = 1024

BlockSummaries = tuple[torch.Tensor, torch.Tensor]
"""fp8 ``[blocks, 128]`` and fp32 ``[blocks]`` of :func:`sglang_hisa.kernels.gather_blocks`."""


@functools.cache
def can_overlap(device: torch.device) -> bool:
    """Whether kernels may be launched before their predecessor ends (compute capability 9.0 on)."""
    return device.type == "cuda" and bool(torch.cuda.get_device_capability(device)[0] >= 9)


def _overlaps(rows: int, device: torch.device) -> bool:
    """Few rows are bound by launches, which programmatic dependent launch hides (sm_90 and later)."""
    return rows <= OVERLAP_ROWS and can_overlap(device)


@dataclass(frozen=True)
class Queries:
    """What one layer asks for the rows of a step, and the summaries that answer it."""

    q: torch.Tensor
    """fp8 ``[rows, heads, 128]``."""
    weights: torch.Tensor
    """fp32 ``[rows, heads]``, scales folded in."""
    layer: LayerSummaries

    def at(self, rows: torch.Tensor | slice) -> Queries:
        """Those of some rows (a slice, or int64 indices), in that order."""
        return replace(self, q=self.q[rows], weights=self.weights[rows])

    def routed(self, chunk: Chunk, backend: str) -> Queries:
        """The same of the heads that score the tokens of ``chunk``, whose rows these are."""
        if not chunk.heads:
            return self
        q, weights = kernels.route_heads(self.q, self.weights, chunk.heads, backend)
        return replace(self, q=q, weights=weights)


@dataclass(frozen=True)
class Output:
    """Form of the result: physical KV slots, or positions in the request plus an optional offset."""

    physical: bool
    offsets: torch.Tensor | None = None
    """int32 ``[rows]``, added to each position (RAGGED); None otherwise."""

    def at(self, rows: torch.Tensor | slice) -> Output:
        """The same for some rows."""
        return self if self.offsets is None else replace(self, offsets=self.offsets[rows])


def _table(plan: Plan, chunk: Chunk) -> torch.Tensor:
    """The page table of a chunk: of its rows, or of the requests that its rows name."""
    table = plan.rows.table
    return table if chunk.table_rows is not None else table[chunk.start : chunk.stop]


def gather(layer: LayerSummaries, plan: Plan, setup: Setup) -> BlockSummaries | None:
    """Summaries of the blocks of :attr:`Plan.gathered`; None where the plan gathers none."""
    if plan.gathered is None:
        return None
    per_block = setup.config.pages_per_block
    return kernels.gather_blocks(plan.gathered, layer.keys, layer.scales, per_block, setup.backend)


def block_scores(
    queries: Queries, plan: Plan, chunk: Chunk, setup: Setup, gathered: BlockSummaries | None
) -> torch.Tensor:
    """Coarse scores of a chunk's blocks, fp32 ``[rows, score_blocks]``: the first half of a choice.

    ``queries`` are the chunk's own; ``gathered``: of :func:`gather`.
    """
    if gathered is not None:
        assert chunk.starts is not None and chunk.ends is not None
        keys, scales = gathered
        return setup.stock.flat_logits(
            queries.q,
            keys,
            scales,
            queries.weights,
            starts=chunk.starts,
            ends=chunk.ends,
            max_columns=plan.score_blocks,
        )
    rows, device = chunk.stop - chunk.start, queries.q.device
    scores = torch.empty((rows, plan.score_blocks), dtype=torch.float32, device=device)
    kernels.coarse_scores(
        queries.q,
        queries.weights,
        queries.layer.keys,
        queries.layer.scales,
        table=_table(plan, chunk),
        table_rows=chunk.table_rows,
        lengths=chunk.bounds,
        picks=chunk.picks,
        pages_per_block=setup.config.pages_per_block,
        out=scores,
        backend=setup.backend,
        seal_from=queries.layer.index_k if plan.seals else None,
        overlap=_overlaps(rows, device),
    )
    return scores


def picked(
    scores: torch.Tensor, plan: Plan, chunk: Chunk, setup: Setup, *, logical: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Candidate tables by :func:`block_scores`, physical and (if ``logical``) logical: the second half."""
    config, stock = setup.config, setup.stock
    rows = chunk.stop - chunk.start
    physical = torch.empty((rows, chunk.width), dtype=torch.int32, device=scores.device)
    positions = torch.empty_like(physical) if logical else None
    kernels.pick_pages(
        scores,
        lengths=chunk.bounds,
        picks=chunk.picks,
        table=_table(plan, chunk),
        table_rows=chunk.table_rows,
        pages_per_block=config.pages_per_block,
        sink_blocks=sink_blocks(config, stock.init_tokens),
        local_tokens=local_window(config, stock.local_tokens),
        physical=physical,
        logical=positions,
        backend=setup.backend,
        overlap=_overlaps(rows, scores.device),
        early=plan.seals,
        group=plan.group,
    )
    return physical, positions


def candidates(
    queries: Queries,
    plan: Plan,
    chunk: Chunk,
    setup: Setup,
    gathered: BlockSummaries | None,
    *,
    logical: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Candidate tables of a chunk, physical and (if ``logical``) logical, int32 ``[rows, width]``."""
    scores = block_scores(queries, plan, chunk, setup, gathered)
    return picked(scores, plan, chunk, setup, logical=logical)


def token_logits(
    queries: Queries,
    plan: Plan,
    chunk: Chunk,
    setup: Setup,
    physical: torch.Tensor,
    tuning: Tuning | None = None,
) -> torch.Tensor:
    """Index scores of a chunk's candidate tokens, fp32 ``[rows, width * 64]``.

    Args:
        queries: the chunk's own, of the heads that score its tokens (:meth:`Queries.routed`).
        physical: its candidate table, int32 ``[rows, width]``.
        tuning: how our own kernel is launched; None: as the device wants it.
    """
    q, weights, index_k = queries.q, queries.weights, queries.layer.index_k
    rows, width = q.shape[0], chunk.width * PAGE
    if chunk.refine == "deepgemm":
        group = min(plan.group, PAIR)
        return paged_logits(
            setup.stock,
            chunk.calls,
            q,
            index_k,
            weights,
            lengths=chunk.candidates.view(-1, group),
            table=physical[::group],
            width=width,
        )
    logits = torch.empty((rows, width), dtype=torch.float32, device=q.device)
    kernels.refine_logits(
        q,
        weights,
        index_k,
        table=physical,
        lengths=chunk.candidates,
        out=logits,
        backend=setup.backend,
        group=plan.group,
        overlap=_overlaps(rows, q.device),  # its predecessor is the pick of this chunk
        tuning=tuning,
    )
    return logits


def _select_chunk(
    queries: Queries,
    plan: Plan,
    chunk: Chunk,
    setup: Setup,
    gathered: BlockSummaries | None,
    output: Output,
) -> torch.Tensor:
    stock = setup.stock
    # Before the pick: refine may read its queries before the kernel that comes right before it has ended.
    scorer = queries.routed(chunk, setup.backend)
    physical, logical = candidates(queries, plan, chunk, setup, gathered, logical=not output.physical)
    logits = token_logits(scorer, plan, chunk, setup, physical)
    stock.boost(logits, chunk.candidates)

    target = physical if logical is None else logical
    if not stock.table_topk:
        positions = stock.topk_positions(logits, chunk.candidates)
        return kernels.map_positions(positions, target, output.offsets, setup.backend)
    chosen = stock.topk_slots(logits, chunk.candidates, target, chunk.topk_plan)
    if output.offsets is None:
        return chosen
    # One pass over the choice, each page standing for itself; three with torch.where.
    pages = torch.arange(-(-plan.rows.max_length // PAGE), dtype=torch.int32, device=logits.device)
    pages = pages.expand(chosen.shape[0], -1)
    return kernels.map_positions(chosen, pages, output.offsets, setup.backend)


def _select_arranged(
    queries: Queries, plan: Plan, setup: Setup, output: Output, out: torch.Tensor | None
) -> torch.Tensor:
    """:func:`select` of rows that stand in the order of the chunks."""
    gathered = gather(queries.layer, plan, setup)
    if out is None and len(plan.chunks) == 1:
        return _select_chunk(queries, plan, plan.chunks[0], setup, gathered, output)
    if out is None:
        shape = (queries.q.shape[0], setup.stock.index_topk)
        out = torch.empty(shape, dtype=torch.int32, device=queries.q.device)
    for chunk in plan.chunks:
        part = slice(chunk.start, chunk.stop)
        out[part] = _select_chunk(queries.at(part), plan, chunk, setup, gathered, output.at(part))
    return out


def select(
    queries: Queries, plan: Plan, setup: Setup, output: Output, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Top-k tokens of each row.

    Args:
        queries: those of all rows of the plan, in the order of the step.
        out: int32 ``[>= rows, index_topk]`` to fill in place, or None.

    Returns:
        int32 ``[rows, index_topk]``, -1 padded (``out`` if it was given).
    """
    if plan.order is None:
        return _select_arranged(queries, plan, setup, output, out)
    arranged = _select_arranged(queries.at(plan.order), plan, setup, output.at(plan.order), None)
    chosen = arranged[plan.back]
    if out is None:
        return chosen
    out[: chosen.shape[0]] = chosen
    return out
