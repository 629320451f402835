"""The plan of a step: everything about its rows that no layer changes, made once and used by every layer.

A row is one query token, whatever the phase: decode, verify, draft-extend and prefill differ only in which
page table a row reads and in how many rows come at once. What is decided here for each row:

* its budget in blocks and its number of candidate tokens (:mod:`sglang_hisa.budget`);
* in prefill, which rows stand together: those with wide tables apart from those with narrow ones
  (:mod:`sglang_hisa.segments`), and in groups where the GPU allows it (:mod:`sglang_hisa.groups`);
* in prefill, how many heads score its tokens: all, or a share of them where it is pruned;
* the chunk of rows that it is scored with, so that the logits fit the workspace;
* how the stock kernels split the work of a chunk (:mod:`sglang_hisa.schedule`).

:func:`sglang_hisa.indexer.select` carries the plan out in each layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sglang_hisa import PAGE, groups, kernels
from sglang_hisa.budget import routed_heads
from sglang_hisa.config import Config
from sglang_hisa.kernels.tuning import for_device
from sglang_hisa.schedule import PAIR, Call, decode_calls, prefill_calls
from sglang_hisa.segments import Segment, budgets, in_parts
from sglang_hisa.stock_kernels import StockKernels
from sglang_hisa.transfer import to_device


@dataclass(frozen=True)
class Setup:
    """What every row of a server is served with."""

    config: Config
    stock: StockKernels
    backend: str
    """Of our own kernels: ``"triton"``, or ``"torch"`` for the references."""


@dataclass(frozen=True)
class Rows:
    """Query rows of one step, the same for every layer."""

    lengths: torch.Tensor
    """int32 ``[rows]``: tokens that a row may see, its own included."""
    table: torch.Tensor
    """int32 ``[tables, pages]``: physical page of each logical one."""
    table_rows: torch.Tensor | None
    """int32 ``[rows]``: each row's row of ``table``; None for the identity."""
    max_length: int
    """Bound of ``lengths`` on the host."""
    blocks: torch.Tensor | int
    """Of each row's :class:`~sglang_hisa.budget.Rule`, as ``share``: one for all, or int32 ``[rows]``."""
    share: torch.Tensor | int
    width: int
    """Pages of the widest candidate row."""

    @classmethod
    def of_segments(
        cls,
        lengths: torch.Tensor,
        table: torch.Tensor,
        table_rows: torch.Tensor | None,
        segments: Sequence[Segment],
    ) -> Rows:
        """Rows of an extend step with the budgets of its segments, which are all of its rows."""
        blocks, share = budgets(segments, lengths.device)
        return cls(
            lengths=lengths,
            table=table,
            table_rows=table_rows,
            max_length=max(segment.context for segment in segments),
            blocks=blocks,
            share=share,
            width=max(segment.width for segment in segments),
        )

    def at(self, order: torch.Tensor) -> Rows:
        """The rows at ``order`` (int64); some may stand twice."""

        def taken(value: Any) -> Any:
            return value[order] if isinstance(value, torch.Tensor) else value

        return replace(
            self,
            lengths=self.lengths[order],
            table_rows=taken(self.table_rows),
            blocks=taken(self.blocks),
            share=taken(self.share),
        )


@dataclass(frozen=True)
class Chunk:
    """Plan of consecutive rows that are scored at once."""

    start: int
    stop: int
    bounds: torch.Tensor
    """int32 ``[rows]``: length that pages are chosen for, the row's own or that of its group's last row."""
    table_rows: torch.Tensor | None
    width: int
    """Pages of a candidate row."""
    picks: torch.Tensor
    """int32 ``[rows]``: earlier blocks to keep."""
    candidates: torch.Tensor
    """int32 ``[rows]``: candidate tokens."""
    calls: tuple[Call, ...]
    """Of DeepGEMM's paged logits; none where our own kernel scores tokens."""
    topk_plan: Any
    starts: torch.Tensor | None = None
    """int32 ``[rows]``: first and last + 1 gathered block of each row (see :attr:`Plan.gathered`)."""
    ends: torch.Tensor | None = None
    refine: str = "triton"
    """Kernel of the token scores: ``"deepgemm"`` or ``"triton"``."""
    heads: int = 0
    """Heads that score tokens, those of each row's largest weights; 0: all."""


@dataclass(frozen=True)
class Plan:
    """Everything of a step that no layer changes."""

    rows: Rows
    chunks: tuple[Chunk, ...]
    score_blocks: int
    """Columns of the coarse score."""
    refine: str
    """Kernel of the token scores of all heads: ``"deepgemm"`` or ``"triton"``."""
    seals: bool = False
    """Whether this step's coarse launch seals the pages that its rows completed (decode)."""
    gathered: torch.Tensor | None = None
    """int32: pages of every request's earlier blocks, one request after the other, whose summaries
    DeepGEMM scores flat (prefill on a GPU); None where our own kernel reads them through the table."""
    group: int = 1
    """Adjacent rows that choose their pages together (:mod:`sglang_hisa.groups`)."""
    order: torch.Tensor | None = None
    """int64: the step's row that stands at each place of the chunks; None where none moved."""
    back: torch.Tensor | None = None
    """int64 ``[rows]``: the place of each of the step's rows; None where none moved."""

    def of_rows(self, field: str) -> torch.Tensor:
        """A field of the chunks (``picks`` or ``candidates``), int32 ``[rows]`` in the order of the step."""
        parts = [getattr(chunk, field) for chunk in self.chunks]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole if self.back is None else whole[self.back]

    def pruned(self) -> torch.Tensor:
        """Rows that score fewer tokens than they see, or by fewer heads: bool ``[rows]``, as in the step."""
        fewer = self.of_rows("candidates") < self.rows.lengths
        if not any(chunk.heads for chunk in self.chunks):
            return fewer
        device = fewer.device
        parts = [torch.full(c.bounds.shape, c.heads > 0, device=device) for c in self.chunks]
        routed = torch.cat(parts)
        return fewer | (routed if self.back is None else routed[self.back])


def refine_kernel(asked: str, device: torch.device, heads: int, decode_rows: int | None = None) -> str:
    """Kernel of the token scores: DeepGEMM where it takes this shape, unless told otherwise.

    A step of at most :attr:`~sglang_hisa.kernels.tuning.Tuning.refine_rows` rows that have the decode
    budget (``decode_rows``; None in prefill) has our own.
    """
    if asked != "auto":
        return asked
    if device.type != "cuda" or heads not in (32, 64):
        return "triton"
    few = decode_rows is not None and decode_rows <= for_device(device).refine_rows
    return "triton" if few else "deepgemm"


def routed_kernel(refine: str, kept: int, group: int) -> str:
    """The same for ``kept`` heads of each row, where ``refine`` scores all of them.

    DeepGEMM's paged kernel takes 32 or 64 heads, and a tile of it has at most two rows: with four in a group
    ours is as fast (``launch/results/frontier-h200.json``).
    """
    return "deepgemm" if refine == "deepgemm" and kept in (32, 64) and group <= PAIR else "triton"


def _score_blocks(rows: Rows, config: Config) -> int:
    """Earlier blocks of the longest row, at least 1."""
    return max(1, -(-rows.max_length // config.block) - 1)


def make_decode_plan(rows: Rows, setup: Setup, refine: str, *, seals: bool) -> Plan:
    """Plan of a step whose query rows have a table row each; a captured graph records these few launches.

    All rows stay together: the shapes of a graph are fixed. ``seals``: each row stored one token, the
    last of its length, and nothing else seals its page.
    """
    config, stock = setup.config, setup.stock
    picks, candidates = kernels.plan_rows(rows.lengths, rows.blocks, rows.share, config.block, setup.backend)
    chunk = Chunk(
        start=0,
        stop=rows.lengths.shape[0],
        bounds=rows.lengths,
        table_rows=None,
        width=rows.width,
        picks=picks,
        candidates=candidates,
        calls=decode_calls(candidates[:, None], stock) if refine == "deepgemm" else (),
        topk_plan=stock.topk_plan(candidates) if stock.table_topk else None,
        refine=refine,
    )
    return Plan(rows, (chunk,), _score_blocks(rows, config), refine, seals=seals)


@dataclass(frozen=True)
class _RowPart:
    """Consecutive rows that are scored alike."""

    rows: int
    width: int
    """Pages of a candidate row."""
    share: float = 1.0
    """Of the heads that score their tokens."""


@dataclass(frozen=True)
class _Arranged:
    """Rows of an extend step in the order in which they are scored."""

    rows: Rows
    parts: list[_RowPart]
    group: int = 1
    order: torch.Tensor | None = None
    back: torch.Tensor | None = None


def _arrange(rows: Rows, setup: Setup, segments: Sequence[Segment] | None) -> _Arranged:
    if segments is None:
        return _Arranged(rows, [_RowPart(rows.lengths.shape[0], rows.width)])
    several = any(segment.count > 1 for segment in segments)
    group = min(setup.config.prefill_group, setup.stock.device.group) if several else 1
    ordered = in_parts(segments)
    # Rows within the budget beside pruned ones have tables as wide, so that they need no kernel of their own.
    narrow = max((segment.width for segment in segments if not segment.fits), default=0)
    parts = []
    for part in ordered:
        rows_of = sum(groups.places(segment, group) for segment in part)
        width = max(segment.width for segment in part)
        share = part[0].rule.heads if part[0].routed else 1.0
        parts.append(_RowPart(rows_of, max(width, narrow), share))
    moved = groups.arrange([segment for part in ordered for segment in part], group)
    if moved is None:
        return _Arranged(rows, parts, group)
    order, back = (to_device(index, rows.lengths.device) for index in moved)
    return _Arranged(rows.at(order), parts, group, order, back)


def _spans(
    parts: Sequence[_RowPart], score_blocks: int, config: Config
) -> Iterator[tuple[int, int, _RowPart]]:
    """(start, stop, part) of the row chunks of ``parts``, which stand one after the other.

    A chunk has as many rows as the workspace holds, and whole groups.
    """
    first = 0
    for part in parts:
        row_bytes = (part.width * (PAGE + 2) + score_blocks) * 4
        limit = max(32, (config.workspace_mb << 20) // row_bytes // groups.MOST * groups.MOST)
        for start in range(0, part.rows, limit):
            yield first + start, first + min(start + limit, part.rows), part
        first += part.rows


def _gather_list(rows: Rows, contexts: list[int], config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """Pages to gather and, for each table row, the number of its first gathered block (int32)."""
    counts = [max(length - 1, 0) // config.block for length in contexts]
    parts = [rows.table[i, : n * config.pages_per_block] for i, n in enumerate(counts)]
    firsts = [sum(counts[:i]) for i in range(len(counts))]
    return torch.cat(parts), to_device(torch.tensor(firsts, dtype=torch.int32), rows.table.device)


def _part(values: torch.Tensor | None, start: int, stop: int) -> torch.Tensor | None:
    return None if values is None else values[start:stop]


def make_prefill_plan(
    rows: Rows,
    contexts: list[int],
    setup: Setup,
    refine: str,
    segments: Sequence[Segment] | None = None,
    heads: int = 0,
) -> Plan:
    """Plan of an extend step.

    Args:
        contexts: lengths of its requests, on the host.
        refine: kernel of the token scores of all heads (:func:`refine_kernel`).
        segments: all of its rows, which may then choose in groups, differ in the width of their tables, and
            have few heads score their tokens; None for rows that do not follow one another.
        heads: index heads of the model.
    """
    config, stock = setup.config, setup.stock
    arranged = _arrange(rows, setup, segments)
    given, group = arranged.rows, arranged.group
    bounds = given.lengths if group == 1 else groups.last_of_each(given.lengths, group)
    picks, candidates = kernels.plan_rows(bounds, given.blocks, given.share, config.block, setup.backend)
    candidates -= bounds - given.lengths
    gathered = starts = ends = None
    if refine == "deepgemm" and rows.lengths.is_cuda and given.table_rows is not None:
        gathered, firsts = _gather_list(rows, contexts, config)
        starts = firsts[given.table_rows.long()]
        earlier = torch.div((bounds - 1).clamp_min(0), config.block, rounding_mode="floor")
        ends = starts + torch.where(picks < earlier, earlier, 0)
    score_blocks = _score_blocks(rows, config)
    chunks = []
    for start, stop, part in _spans(arranged.parts, score_blocks, config):
        own = candidates[start:stop]
        kept = routed_heads(part.share, heads) if part.share < 1 else 0
        kernel = routed_kernel(refine, kept, group) if 0 < kept < heads else refine
        chunks.append(
            Chunk(
                start=start,
                stop=stop,
                bounds=bounds[start:stop],
                table_rows=_part(given.table_rows, start, stop),
                width=part.width,
                picks=picks[start:stop],
                candidates=own,
                calls=prefill_calls(own.view(-1, min(group, PAIR)), stock) if kernel == "deepgemm" else (),
                topk_plan=stock.topk_plan(own) if stock.table_topk else None,
                starts=_part(starts, start, stop),
                ends=_part(ends, start, stop),
                refine=kernel,
                heads=kept if kept < heads else 0,
            )
        )
    return Plan(
        rows=rows,
        chunks=tuple(chunks),
        score_blocks=score_blocks,
        refine=refine,
        gathered=gathered,
        group=group,
        order=arranged.order,
        back=arranged.back,
    )
