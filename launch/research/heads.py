"""What a row still chooses when few heads score its tokens, rows share pages, or candidates are few.

The choice of a :class:`Way` is compared with stock DSA's, which scores all tokens with all heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from sglang_hisa import PAGE
from sglang_hisa.launch.research.rows import Parts
from sglang_hisa.launch.research.scorers import fp8, token_scores

ALL = 0
"""As a number of heads: those of the model."""


@dataclass(frozen=True)
class Way:
    """How a row's tokens are chosen."""

    tokens: int
    """Candidates in whole pages, first and last page among them; the context or more: no filter."""
    heads: int = ALL
    """Heads that score the candidates."""
    group: int = 1
    """Rows that choose their pages together, by the sum of their scores."""
    router: str = "weight"
    """Whose largest heads a row takes: ``weight``, its own weights, or ``coarse``, their share of its page
    scores."""
    rescored: int = 0
    """So many of the best are scored by all heads before top-k."""
    coarse_heads: int = ALL
    """Heads (by weight) that score pages."""

    def arithmetic(self, context: int, heads: int) -> float:
        """Products, as a share of those of stock DSA with ``heads`` heads; pages' summaries counted."""
        tokens = min(self.tokens, context)
        total: float = tokens * (self.heads or heads) + self.rescored * heads
        if self.tokens < context:
            total += context / PAGE * (self.coarse_heads or heads)
        return total / (context * heads)

    def keys(self, context: int) -> float:
        """Keys that a row loads from L2 with those it shares, as a share of the context."""
        return min(self.tokens, context) / self.group / context


def routed(parts: Parts, size: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and weights of the ``heads`` of the largest ``size`` ``[rows, heads]`` of each row."""
    query, weights, _ = parts
    best = size.topk(heads, dim=1).indices
    return query.gather(1, best[..., None].expand(-1, -1, query.shape[-1])), weights.gather(1, best)


class Place:
    """Adjacent rows, the first at a multiple of the largest group, over the keys before them."""

    def __init__(self, parts: Parts, topk: int) -> None:
        """``parts``: as served, rounded to fp8; ``topk``: tokens that a row chooses."""
        self.parts, self.topk = parts, topk
        self._scores: dict[tuple[int, str], torch.Tensor] = {}
        query, _, key = parts
        self.heads, self.context = query.shape[1], key.shape[0]
        self.pages = self.context // PAGE - 1  # the last whole page and the rest are the tail
        self.summaries = fp8(key[: self.pages * PAGE].unflatten(0, (self.pages, PAGE)).mean(dim=1))
        self.full = self.scores(self.heads, "weight")
        self.stock = self._best(self.full, topk)
        mass = self.full.softmax(dim=1) * self.stock
        self.mass = mass / mass.sum(dim=1, keepdim=True)

    @staticmethod
    def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        return chosen.scatter_(1, scores.topk(min(count, scores.shape[1]), dim=1).indices, True)

    @cached_property
    def by_page(self) -> torch.Tensor:
        """Share of each head in a row's page scores, ``[rows, heads]``."""
        query, weights, _ = self.parts
        dots = torch.relu(torch.einsum("rhd,nd->rhn", query, self.summaries)).sum(dim=2)
        return dots * weights.abs()

    @cached_property
    def by_head(self) -> torch.Tensor:
        """Share of each head in the scores of stock's tokens, signs aside, ``[rows, heads]``."""
        query, weights, key = self.parts
        dots = torch.relu(torch.einsum("rhd,nd->rhn", query, key))
        sums = torch.einsum("rhn,rn->rh", dots, self.stock.float()) * weights.abs()
        return sums / sums.sum(dim=1, keepdim=True)

    def scores(self, heads: int, router: str) -> torch.Tensor:
        """Token scores of the best ``heads``, ``[rows, context]``."""
        if (heads, router) not in self._scores:
            size = self.parts[1].abs() if router == "weight" else self.by_page
            given = routed(self.parts, size, heads)
            self._scores[heads, router] = token_scores(*given, self.parts[2])
        return self._scores[heads, router]

    def candidates(self, way: Way) -> torch.Tensor:
        """Tokens that the filter leaves, bool ``[rows, context]``."""
        if way.tokens >= self.context:
            return torch.ones_like(self.stock)
        given = routed(self.parts, self.parts[1].abs(), way.coarse_heads or self.heads)
        value = token_scores(*given, self.summaries)
        value = torch.cat(
            [part.sum(dim=0, keepdim=True).expand_as(part) for part in value.split(way.group)]
        ).clone()
        value[:, 0] = float("inf")
        kept = self._best(value, way.tokens // PAGE - 2).repeat_interleave(PAGE, dim=1)
        return torch.nn.functional.pad(kept, (0, self.context - kept.shape[1]), value=True)

    def chosen(self, way: Way) -> torch.Tensor:
        """What each row chooses, bool ``[rows, context]``."""
        inside = self.candidates(way)
        scores = self.scores(way.heads or self.heads, way.router).masked_fill(~inside, float("-inf"))
        if way.rescored:
            again = self._best(scores, way.rescored) & inside
            scores = self.full.masked_fill(~again, float("-inf"))
        return self._best(scores, self.topk) & inside

    def kept(self, way: Way, rows: slice) -> tuple[float, float]:
        """Share of stock's tokens, and of their softmax mass, that ``rows`` keep in the mean."""
        hit = self.chosen(way)[rows] & self.stock[rows]
        recall = hit.sum(dim=1) / self.stock[rows].sum(dim=1)
        return recall.mean().item(), (self.mass[rows] * hit).sum(dim=1).mean().item()


def ways(context: int, heads: int, topk: int) -> Iterator[Way]:
    """The axes, one or two at a time, at ``context`` tokens and a model of ``heads`` heads."""
    sizes = [context // share for share in (16, 8, 4, 2, 1) if context // share >= topk + 2 * PAGE]
    few = [heads // share for share in (1, 2, 4, 8) if heads // share >= 4]
    for tokens in sizes:
        for count in few:
            yield from (Way(tokens, count, group) for group in (1, 2, 4, 8) if tokens < context or group == 1)
        for count in few[1:]:
            group = 1 if tokens >= context else 2
            yield Way(tokens, count, group, router="coarse")
            if 2 * topk < tokens:
                yield Way(tokens, count, group, rescored=2 * topk)
        if tokens < context:
            yield from (Way(tokens, count, 2, coarse_heads=count) for count in few[1:])
