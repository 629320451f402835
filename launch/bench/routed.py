"""One prefill layer with fewer candidates and fewer heads, stage by stage: what the frontier benchmark times.

The stages are those that a server runs (:mod:`sglang_hisa.indexer`), with the heads routed before them:
route, gather the summaries, and for each chunk of rows coarse, pick, refine, top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa.indexer import Queries
from sglang_hisa.kernels.tuning import DEFAULT, Tuning
from sglang_hisa.schedule import PAIR, Call, paged_logits, prefill_calls
from sglang_hisa.stock_kernels import StockKernels

Scorer = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]
"""Queries and weights of some rows, and which rows they are -> fp32 logits of all tokens."""


@dataclass(frozen=True)
class Point:
    """How a layer is scored: so many candidates, so many heads, rows in groups."""

    tokens: int
    """Candidates of a row, its own block included; the context or more: all tokens, without a filter."""
    heads: int
    group: int
    """Adjacent rows that share their pages."""
    block: int = 64
    refine: str = "triton"
    """Kernel of the token scores: ``triton``, or ``deepgemm`` (32 or 64 heads)."""
    coarse_heads: int = 0
    """Heads that score blocks; 0: all."""
    workspace_mb: int = 512
    """Logits of a chunk of rows."""
    warps: int = DEFAULT.refine_warps
    stages: int = DEFAULT.refine_stages
    pages: int = DEFAULT.refine_pages

    @property
    def tuning(self) -> Tuning:
        """How our refine kernel is launched."""
        stages = {"refine_stages": self.stages, "refine_stages_shared": self.stages}
        return Tuning(refine_warps=self.warps, refine_pages=self.pages, **stages)


@dataclass(frozen=True)
class Part:
    """A chunk of rows and what depends on their lengths alone."""

    rows: slice
    bounds: torch.Tensor
    picks: torch.Tensor
    candidates: torch.Tensor
    calls: tuple[Call, ...]
    topk_plan: Any
    starts: torch.Tensor
    ends: torch.Tensor


class Layer:
    """The last rows of one request of ``context`` tokens, scored as a :class:`Point` says."""

    def __init__(
        self,
        point: Point,
        queries: Queries,
        table: torch.Tensor,
        context: int,
        stock: StockKernels,
        flat: Scorer | None = None,
    ) -> None:
        """``table``: int32 ``[1, pages]``; ``flat``: scores all tokens for a point with DeepGEMM's kernel.

        Raises:
            ValueError: the rows do not begin at a whole group, or a point of all tokens has no ``flat``.
        """
        q, rows = queries.q, queries.q.shape[0]
        if (context - rows) % point.group:
            raise ValueError(f"rows begin inside a group of {point.group}")
        self.point, self.layer, self.q, self.weights = point, queries.layer, q, queries.weights
        self.table, self.context, self.stock, self.flat = table, context, stock, flat
        self.backend = "triton" if q.is_cuda else "torch"
        self.whole = point.tokens >= context
        self.deepgemm = point.refine == "deepgemm"
        if self.whole and self.deepgemm and flat is None:
            raise ValueError("all tokens with DeepGEMM's kernel need its flat form")
        self.per_block = point.block // PAGE
        self.earlier = (context - 1) // point.block
        self.width = -(-context // PAGE) if self.whole else point.tokens // PAGE
        self.which = torch.zeros(rows, dtype=torch.int32, device=q.device)
        self.lengths = torch.arange(context - rows + 1, context + 1, dtype=torch.int32, device=q.device)
        self.pages = table[0, : self.earlier * self.per_block]
        self.parts = self._parts(rows)

    def _parts(self, rows: int) -> list[Part]:
        point, lengths = self.point, self.lengths
        group = 1 if self.whole else point.group
        bounds = lengths.view(-1, group).amax(dim=1).repeat_interleave(group)
        blocks = 1 << 24 if self.whole else point.tokens // point.block
        picks, candidates = kernels.plan_rows(bounds, blocks, 0, point.block, self.backend)
        candidates -= bounds - lengths
        starts = torch.zeros_like(lengths)
        ends = torch.div(bounds - 1, point.block, rounding_mode="floor").to(torch.int32)
        row_bytes = (self.width * (PAGE + 2) + self.earlier) * 4
        step = max(32, (point.workspace_mb << 20) // row_bytes // 32 * 32)
        parts = []
        for first in range(0, rows, step):
            some = slice(first, min(first + step, rows))
            mine = candidates[some]
            paged = self.deepgemm and not self.whole
            calls = prefill_calls(mine.view(-1, min(group, PAIR)), self.stock) if paged else ()
            of_rows = (bounds[some], picks[some], mine)
            parts.append(Part(some, *of_rows, calls, self.stock.topk_plan(mine), starts[some], ends[some]))
        return parts

    def route(self, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and weights of the best ``heads`` of each row (0: all)."""
        if not heads or heads >= self.q.shape[1]:
            return self.q, self.weights
        return kernels.route_heads(self.q, self.weights, heads, self.backend)

    def gather(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Summaries of the request's blocks."""
        given = (self.pages, self.layer.keys, self.layer.scales, self.per_block, self.backend)
        return kernels.gather_blocks(*given)

    def coarse(
        self, part: Part, by: tuple[torch.Tensor, torch.Tensor], summary: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        q, weights = by[0][part.rows], by[1][part.rows]
        return self.stock.flat_logits(q, *summary, weights, part.starts, part.ends, self.earlier)

    def pick(self, part: Part, scores: torch.Tensor) -> torch.Tensor:
        rows, local = part.bounds.shape[0], PAGE + self.point.group - 1
        physical = torch.empty((rows, self.width), dtype=torch.int32, device=self.q.device)
        kernels.pick_pages(
            scores,
            lengths=part.bounds,
            picks=part.picks,
            table=self.table,
            table_rows=self.which[part.rows],
            pages_per_block=self.per_block,
            sink_blocks=1,
            local_tokens=local,
            physical=physical,
            logical=None,
            backend=self.backend,
            group=self.point.group,
        )
        return physical

    def refine(
        self, part: Part, by: tuple[torch.Tensor, torch.Tensor], physical: torch.Tensor
    ) -> torch.Tensor:
        q, weights, width = by[0][part.rows], by[1][part.rows], self.width * PAGE
        if self.deepgemm and self.whole:
            assert self.flat is not None
            return self.flat(q, weights, part.rows)
        if self.deepgemm:
            group = min(self.point.group, PAIR)
            return paged_logits(
                self.stock,
                part.calls,
                q,
                self.layer.index_k,
                weights,
                lengths=part.candidates.view(-1, group),
                table=physical[::group],
                width=width,
            )
        logits = torch.empty((q.shape[0], width), dtype=torch.float32, device=q.device)
        kernels.refine_logits(
            q,
            weights,
            self.layer.index_k,
            table=physical,
            lengths=part.candidates,
            out=logits,
            backend=self.backend,
            group=self.point.group,
            tuning=self.point.tuning,
        )
        return logits

    def topk(self, part: Part, logits: torch.Tensor, physical: torch.Tensor) -> torch.Tensor:
        return self.stock.topk_slots(logits, part.candidates, physical, part.topk_plan)

    def tables(self, part: Part) -> torch.Tensor:
        """Of a point of all tokens: the request's one table, for each row."""
        return self.table[:, : self.width].expand(part.bounds.shape[0], -1)

    def __call__(self) -> torch.Tensor:
        """The whole layer: int32 ``[rows, index_topk]`` KV slots, -1 padded."""
        by, summary = self.route(self.point.heads), None
        coarse_by = self.route(self.point.coarse_heads)
        if not self.whole:
            summary = self.gather()
        chosen = []
        for part in self.parts:
            physical = self.tables(part)
            if summary is not None:
                physical = self.pick(part, self.coarse(part, coarse_by, summary))
            chosen.append(self.topk(part, self.refine(part, by, physical), physical))
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen)

    def stages(self) -> dict[str, tuple[Callable[[], object], float]]:
        """Each stage of the first chunk, and by what its time is multiplied to be that of all rows."""
        part, by = self.parts[0], self.route(self.point.heads)
        share = self.q.shape[0] / part.bounds.shape[0]
        found: dict[str, tuple[Callable[[], object], float]] = {}
        if 0 < self.point.heads < self.q.shape[1]:
            found["route"] = (lambda: self.route(self.point.heads), 1.0)
        physical = self.tables(part)
        if not self.whole:
            coarse_by, summary = self.route(self.point.coarse_heads), self.gather()
            scores = self.coarse(part, coarse_by, summary)
            physical = self.pick(part, scores)
            found["gather"] = (self.gather, 1.0)
            found["coarse"] = (lambda: self.coarse(part, coarse_by, summary), share)
            found["pick"] = (lambda: self.pick(part, scores), share)
        logits = self.refine(part, by, physical)
        found["refine"] = (lambda: self.refine(part, by, physical), share)
        found["topk"] = (lambda: self.topk(part, logits, physical), share)
        return found

    def floors(self, flops: float, l2_bytes: float) -> dict[str, float]:
        """Least microseconds of refine by fp8 arithmetic, and by the keys that groups load from L2."""
        rows, tokens = self.q.shape[0], min(self.point.tokens, self.context)
        work = rows * tokens * self.point.heads * 128 * 2
        group = self.point.group
        if self.deepgemm:
            group = 128 // self.point.heads if self.whole else min(group, PAIR)
        return {
            "arithmetic": round(work / flops * 1e6, 1),
            "keys": round(rows / group * tokens * 132 / l2_bytes * 1e6, 1),
        }
