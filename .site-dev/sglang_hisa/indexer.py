"""The two-stage indexer over rows: coarse filter, candidate page table, stock score, stock top-k.

A row is one query token, whatever the phase: decode, verify, draft-extend and prefill differ only in
which page table a row reads and in how many rows come at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sglang_hisa import kernels, pairs
from sglang_hisa.budget import local_window, plan_rows, sink_blocks
from sglang_hisa.config import PAGE, Config
from sglang_hisa.host import Host
from sglang_hisa.kernels.settings import Settings, for_device
from sglang_hisa.schedule import Call, decode_calls, paged_logits, prefill_calls
from sglang_hisa.segments import Segment, budgets, in_parts
from sglang_hisa.summaries import LayerSummaries
from sglang_hisa.transfer import to_device

OVERLAP_ROWS = 1024


@functools.cache
def can_overlap(device: torch.device) -> bool:
    """Whether kernels may be launched before their predecessor ends (compute capability 9.0 on)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


def _overlaps(rows: int, device: torch.device) -> bool:
    """Few rows are bound by launches, which programmatic dependent launch hides (sm_90 and later)."""
    return rows <= OVERLAP_ROWS and can_overlap(device)


def refine_kernel(asked: str, device: torch.device, heads: int, decode_rows: int | None = None) -> str:
    """Kernel of the token scores: DeepGEMM where it takes this shape, unless told otherwise.

    A step of at most :attr:`~sglang_hisa.kernels.settings.Settings.refine_rows` rows that have the decode
    budget (``decode_rows``; None in prefill) has our own.
    """
    if asked != "auto":
        return asked
    if device.type != "cuda" or heads not in (32, 64):
        return "triton"
    few = decode_rows is not None and decode_rows <= for_device(device).refine_rows
    return "triton" if few else "deepgemm"


@dataclass(frozen=True)
class Rows:
    """Query rows of one step, the same for every layer.

    lengths int32 ``[rows]`` (tokens a row may see), table int32 ``[tables, pages]``, table_rows int32
    ``[rows]`` or None for the identity, max_length bounds ``lengths`` on the host. ``blocks`` and
    ``share`` are each row's budget (:class:`sglang_hisa.budget.Rule`), ints or int32 ``[rows]``;
    ``width`` is the pages of the widest candidate row.
    """

    lengths: torch.Tensor
    table: torch.Tensor
    table_rows: torch.Tensor | None
    max_length: int
    blocks: torch.Tensor | int
    share: torch.Tensor | int
    width: int

    @classmethod
    def of_segments(
        cls,
        lengths: torch.Tensor,
        table: torch.Tensor,
        table_rows: torch.Tensor | None,
        segments: Sequence[Segment],
    ) -> Rows:
        """Rows of an extend step with the budgets of its segments, which are all of its rows."""
        longest = max(segment.context for segment in segments)
        width = max(segment.width for segment in segments)
        return cls(lengths, table, table_rows, longest, *budgets(segments, lengths.device), width)


@dataclass(frozen=True)
class Chunk:
    """Plan of consecutive rows: what depends on lengths only, made once and used by every layer."""

    start: int
    stop: int
    bounds: torch.Tensor
    """int32 ``[rows]``: length that pages are chosen for, the row's own or that of its pair's last row."""
    table_rows: torch.Tensor | None
    width: int
    """Pages of a candidate row."""
    picks: torch.Tensor
    candidates: torch.Tensor
    """int32 ``[rows]``: candidate tokens."""
    calls: tuple[Call, ...]
    """Of DeepGEMM's paged logits; none where our own kernel scores tokens."""
    topk_plan: Any
    starts: torch.Tensor | None = None
    """int32 ``[rows]``: first and last + 1 gathered block of each row (see :attr:`Plan.gathered`)."""
    ends: torch.Tensor | None = None


@dataclass(frozen=True)
class Plan:
    """Everything of a step that no layer changes."""

    rows: Rows
    chunks: tuple[Chunk, ...]
    score_blocks: int
    """Columns of the coarse score."""
    refine: str
    seals: bool = False
    """Whether this step's coarse launch seals the pages that its rows completed (decode)."""
    gathered: torch.Tensor | None = None
    """int32: pages of every request's earlier blocks, one request after the other, whose summaries
    DeepGEMM scores flat (prefill on a GPU); None where our own kernel reads them through the table."""
    group: int = 1
    """Adjacent rows that choose their pages together (:mod:`sglang_hisa.pairs`)."""
    order: torch.Tensor | None = None
    """int64: the step's row that stands at each place of the chunks; None where none moved."""
    back: torch.Tensor | None = None
    """int64 ``[rows]``: the place of each of the step's rows."""

    def of_rows(self, field: str) -> torch.Tensor:
        """A field of the chunks (``picks`` or ``candidates``), int32 ``[rows]`` in the order of the step."""
        parts = [getattr(chunk, field) for chunk in self.chunks]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole if self.back is None else whole[self.back]


@dataclass(frozen=True)
class Output:
    """Form of the result: physical KV slots, or positions in the request plus an optional offset."""

    physical: bool
    offsets: torch.Tensor | None = None
    """int32 ``[rows]``, added to each position (RAGGED); None otherwise."""


def _spans(
    parts: Sequence[tuple[int, int]], score_blocks: int, config: Config
) -> Iterator[tuple[int, int, int]]:
    """(start, stop, pages) of the row chunks of ``parts``, which are (rows, pages) one after the other.

    A chunk has as many rows as the workspace holds, and whole pairs.
    """
    first = 0
    for rows, width in parts:
        row_bytes = (width * (PAGE + 2) + score_blocks) * 4
        limit = max(32, (config.workspace_mb << 20) // row_bytes // pairs.GROUP * pairs.GROUP)
        for start in range(0, rows, limit):
            yield first + start, first + min(start + limit, rows), width
        first += rows


def _gather_list(rows: Rows, contexts: list[int], config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Pages to gather and, for each table row, the number of its first gathered block (int32)."""
    counts = [max(length - 1, 0) // config.block for length in contexts]
    parts = [rows.table[i, : n * config.pages_per_block] for i, n in enumerate(counts)]
    firsts = [sum(counts[:i]) for i in range(len(counts))]
    return torch.cat(parts), to_device(torch.tensor(firsts, dtype=torch.int32), rows.table.device)


def make_decode_plan(rows: Rows, config: Config, host: Host, refine: str, *, seals: bool) -> Plan:
    """Plan of a step whose query rows have a table row each; a captured graph records these few launches.

    All rows stay together: the shapes of a graph are fixed. ``seals``: each row stored one token, the
    last of its length, and nothing else seals its page.
    """
    picks, candidates = plan_rows(rows.lengths, rows.blocks, rows.share, config.block)
    chunk = Chunk(
        0,
        rows.lengths.shape[0],
        rows.lengths,
        None,
        rows.width,
        picks,
        candidates,
        decode_calls(candidates[:, None], host) if refine == "deepgemm" else (),
        host.topk_plan(candidates) if host.table_topk else None,
    )
    return Plan(rows, (chunk,), max(1, -(-rows.max_length // config.block) - 1), refine, seals)


def make_prefill_plan(
    rows: Rows,
    contexts: list[int],
    config: Config,
    host: Host,
    refine: str,
    segments: Sequence[Segment] | None = None,
) -> Plan:
    """Plan of an extend step.

    Args:
        contexts: lengths of its requests, on the host.
        segments: all of its rows, which may then choose in pairs and differ in the width of their tables;
            None for rows that do not follow one another.
    """
    score_blocks = max(1, -(-rows.max_length // config.block) - 1)
    group, order, back = 1, None, None
    given = rows
    parts = [(rows.lengths.shape[0], rows.width)]
    if segments is not None:
        if any(segment.count > 1 for segment in segments):
            group = min(config.prefill_group, host.device.group)
        ordered = in_parts(segments)
        parts = [(sum(pairs.places(s, group) for s in part), max(s.width for s in part)) for part in ordered]
        if (moved := pairs.arrange([s for part in ordered for s in part], group)) is not None:
            order, back = (to_device(index, rows.lengths.device) for index in moved)
            given = _at(rows, order)
    bounds = given.lengths if group == 1 else pairs.last_of_each(given.lengths)
    picks, candidates = plan_rows(bounds, given.blocks, given.share, config.block)
    candidates -= bounds - given.lengths
    gathered = starts = ends = None
    if refine == "deepgemm" and rows.lengths.is_cuda and given.table_rows is not None:
        gathered, firsts = _gather_list(rows, contexts, config)
        starts = firsts[given.table_rows.long()]
        earlier = torch.div((bounds - 1).clamp_min(0), config.block, rounding_mode="floor")
        ends = starts + torch.where(picks < earlier, earlier, 0)
    chunks = []
    for start, stop, width in _spans(parts, score_blocks, config):
        part = candidates[start:stop]
        chunks.append(
            Chunk(
                start,
                stop,
                bounds[start:stop],
                None if given.table_rows is None else given.table_rows[start:stop],
                width,
                picks[start:stop],
                part,
                prefill_calls(part.view(-1, group), host) if refine == "deepgemm" else (),
                host.topk_plan(part) if host.table_topk else None,
                None if starts is None else starts[start:stop],
                None if ends is None else ends[start:stop],
            )
        )
    return Plan(
        *(rows, tuple(chunks), score_blocks, refine),
        gathered=gathered,
        group=group,
        order=order,
        back=back,
    )


def _at(rows: Rows, order: torch.Tensor) -> Rows:
    """The rows at ``order`` (int64); some may stand twice."""

    def taken(value: Any) -> Any:
        return value[order] if isinstance(value, torch.Tensor) else value

    return replace(
        rows,
        lengths=rows.lengths[order],
        table_rows=taken(rows.table_rows),
        blocks=taken(rows.blocks),
        share=taken(rows.share),
    )


def candidates(
    q: torch.Tensor,
    weights: torch.Tensor,
    layer: LayerSummaries,
    summary: tuple[torch.Tensor, torch.Tensor] | None,
    plan: Plan,
    chunk: Chunk,
    config: Config,
    host: Host,
    logical: bool,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Candidate tables of a chunk, physical and (if asked for) logical, int32 ``[rows, width]``."""
    rows = chunk.stop - chunk.start
    physical = torch.empty((rows, chunk.width), dtype=torch.int32, device=q.device)
    positions = torch.empty_like(physical) if logical else None
    table, per_block = plan.rows.table, config.pages_per_block
    if chunk.table_rows is None:
        table = table[chunk.start : chunk.stop]
    sink = sink_blocks(config, host.init_tokens)
    local = local_window(config, host.local_tokens)
    overlap = _overlaps(rows, q.device)
    if summary is not None:
        assert chunk.starts is not None and chunk.ends is not None
        scores = host.flat_logits(q, *summary, weights, chunk.starts, chunk.ends, plan.score_blocks)
    else:
        scores = torch.empty((rows, plan.score_blocks), dtype=torch.float32, device=q.device)
        which = (table, chunk.table_rows, chunk.bounds, chunk.picks, per_block)
        kernels.coarse_scores(
            *(q, weights, layer.keys, layer.scales, *which, scores, backend),
            seal_from=layer.index_k if plan.seals else None,
            salient=layer.salient,
            overlap=overlap,
        )
    kernels.pick_pages(
        *(scores, chunk.bounds, chunk.picks, table, chunk.table_rows, per_block, sink, local),
        *(physical, positions, backend),
        overlap=overlap,
        early=plan.seals,
        group=plan.group,
    )
    return physical, positions


def token_logits(
    q: torch.Tensor,
    weights: torch.Tensor,
    layer: LayerSummaries,
    plan: Plan,
    chunk: Chunk,
    physical: torch.Tensor,
    host: Host,
    backend: str,
    settings: Settings | None = None,
) -> torch.Tensor:
    """Index scores of a chunk's candidate tokens, fp32 ``[rows, width * 64]``; see :func:`candidates`.

    ``settings``: how our own kernel is launched; None: as the device wants it.
    """
    rows, width = q.shape[0], chunk.width * PAGE
    if plan.refine == "deepgemm":
        lengths, tables = chunk.candidates.view(-1, plan.group), physical[:: plan.group]
        return paged_logits(host, chunk.calls, q, layer.index_k, weights, lengths, tables, width)
    logits = torch.empty((rows, width), dtype=torch.float32, device=q.device)
    pages = (layer.index_k, physical, chunk.candidates)
    kernels.refine_logits(
        *(q, weights, *pages, logits, backend),
        group=plan.group,
        overlap=_overlaps(rows, q.device),  # its predecessor is the pick of this chunk
        settings=settings,
    )
    return logits


def _select_chunk(
    q: torch.Tensor,
    weights: torch.Tensor,
    layer: LayerSummaries,
    summary: tuple[torch.Tensor, torch.Tensor] | None,
    plan: Plan,
    chunk: Chunk,
    config: Config,
    host: Host,
    output: Output,
    backend: str,
) -> torch.Tensor:
    rows = q.shape[0]
    physical, logical = candidates(
        q, weights, layer, summary, plan, chunk, config, host, not output.physical, backend
    )
    logits = token_logits(q, weights, layer, plan, chunk, physical, host, backend)
    lengths = chunk.candidates
    host.boost(logits, lengths)

    target = physical if logical is None else logical
    offsets = None if output.offsets is None else output.offsets[chunk.start : chunk.stop]
    if host.table_topk:
        chosen = host.topk_slots(logits, lengths, target, chunk.topk_plan)
        if offsets is None:
            return chosen
        # One pass over the choice, each page standing for itself; three with torch.where.
        pages = torch.arange(-(-plan.rows.max_length // PAGE), dtype=torch.int32, device=q.device)
        return kernels.map_positions(chosen, pages.expand(rows, -1), offsets, backend)
    positions = host.topk_positions(logits, lengths)
    return kernels.map_positions(positions, target, offsets, backend)


def select(
    q: torch.Tensor,
    weights: torch.Tensor,
    layer: LayerSummaries,
    plan: Plan,
    config: Config,
    host: Host,
    output: Output,
    backend: str,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Top-k tokens of each row.

    Args:
        q: fp8 ``[rows, heads, 128]``; weights: fp32 ``[rows, heads]``, scales folded in.
        out: int32 ``[>= rows, index_topk]`` to fill in place, or None.

    Returns:
        int32 ``[rows, index_topk]``, -1 padded (``out`` if it was given).
    """
    if plan.order is not None:
        offsets = None if output.offsets is None else output.offsets[plan.order]
        arranged = (q[plan.order], weights[plan.order], layer, replace(plan, order=None))
        chosen = select(*arranged, config, host, replace(output, offsets=offsets), backend)[plan.back]
        if out is None:
            return chosen
        out[: chosen.shape[0]] = chosen
        return out
    summary = None
    if plan.gathered is not None:
        per_block = config.pages_per_block
        summary = kernels.gather_blocks(plan.gathered, layer.keys, layer.scales, per_block, backend)
    if out is None and len(plan.chunks) == 1:
        return _select_chunk(q, weights, layer, summary, plan, plan.chunks[0], config, host, output, backend)
    if out is None:
        out = torch.empty((q.shape[0], host.index_topk), dtype=torch.int32, device=q.device)
    for chunk in plan.chunks:
        part = slice(chunk.start, chunk.stop)
        out[part] = _select_chunk(
            q[part], weights[part], layer, summary, plan, chunk, config, host, output, backend
        )
    return out
