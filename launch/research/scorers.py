"""Ways to score a page without scoring its tokens, for a fair comparison at equal budgets (offline).

Each takes index keys of whole blocks fp32 ``[blocks, tokens, 128]``, queries ``[rows, heads, 128]`` and
weights ``[rows, heads]``, and gives fp32 ``[rows, blocks]``. Summaries are rounded to fp8 as served ones are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Scorer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def token_scores(query: torch.Tensor, weights: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The indexer's score of each key ``[n, 128]``: ``sum_h w_h relu(q_h . k)``, ``[rows, n]``."""
    return torch.einsum("rhn,rh->rn", torch.relu(torch.einsum("rhd,nd->rhn", query, key)), weights)


def fp8(x: torch.Tensor) -> torch.Tensor:
    """``x`` as fp8 with one scale a vector would hold it."""
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-4) / 448
    return (x / scale).to(torch.float8_e4m3fn).float() * scale


def _best_of(parts: torch.Tensor, query: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Best score among the summaries ``[blocks, parts, 128]`` of each block."""
    scores = token_scores(query, weights, fp8(parts).flatten(0, 1))
    return scores.unflatten(1, parts.shape[:2]).amax(dim=-1)


def mean(keys: torch.Tensor, query: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The paper's summary, and ours."""
    return _best_of(keys.mean(dim=1, keepdim=True), query, weights)


def _salient_mean(keys: torch.Tensor, power: int) -> torch.Tensor:
    """``[blocks, 1, 128]``: keys weigh as their squared distance from the block's mean to this power."""
    far = (keys - keys.mean(dim=1, keepdim=True)).pow(2).sum(dim=-1, keepdim=True).pow(power)
    return (keys * far).sum(dim=1, keepdim=True) / far.sum(dim=1, keepdim=True)


def salient(keys: torch.Tensor, query: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Keys weigh as the square of their distance from the mean (not served: docs/quality.md)."""
    return _best_of(_salient_mean(keys, 1), query, weights)


def salient_fourth(keys: torch.Tensor, query: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The same with the fourth power of the distance."""
    return _best_of(_salient_mean(keys, 2), query, weights)


def halves(keys: torch.Tensor, query: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """A mean of each half of the block; the better one counts."""
    return _best_of(keys.unflatten(1, (2, -1)).mean(dim=2), query, weights)


def outlier(keys: torch.Tensor, query: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The mean, and the key that is farthest from it."""
    middle = keys.mean(dim=1, keepdim=True)
    far = (keys - middle).pow(2).sum(dim=-1).argmax(dim=1)
    picked = keys[torch.arange(len(keys)), far][:, None]
    return _best_of(torch.cat((middle, picked), dim=1), query, weights)


def spread(keys: torch.Tensor, query: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of each dimension: a key two deviations up, seen from each query head.

    Heads of negative weight keep the mean: for them an upper bound would be a lower score.
    """
    middle, wide = fp8(keys.mean(dim=1)), fp8(keys.std(dim=1))
    dots = torch.einsum("rhd,nd->rhn", query, middle)
    reach = 2 * torch.einsum("rhd,nd->rhn", query.square(), wide.square()).clamp_min(0).sqrt()
    up = torch.einsum("rhn,rh->rn", torch.relu(dots + reach), weights.clamp_min(0))
    return up + torch.einsum("rhn,rh->rn", torch.relu(dots), weights.clamp_max(0))


def extremes(keys: torch.Tensor, query: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Largest and smallest value of each dimension: an upper bound of every dot (Quest, arXiv 2406.10774)."""
    most = torch.einsum("rhd,nd->rhn", query.clamp_min(0), fp8(keys.amax(dim=1)))
    most = most + torch.einsum("rhd,nd->rhn", query.clamp_max(0), fp8(keys.amin(dim=1)))
    up = torch.einsum("rhn,rh->rn", torch.relu(most), weights.clamp_min(0))
    dots = torch.einsum("rhd,nd->rhn", query, fp8(keys.mean(dim=1)))
    return up + torch.einsum("rhn,rh->rn", torch.relu(dots), weights.clamp_max(0))


def best_token(keys: torch.Tensor, query: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Not a summary: each block by its best token, what no summary can beat by much."""
    return token_scores(query, weights, keys.flatten(0, 1)).unflatten(1, keys.shape[:2]).amax(dim=-1)


@dataclass(frozen=True)
class Variant:
    """One line of the comparison."""

    name: str
    block: int
    score: Scorer
    vectors: float
    """Summary vectors of 132 bytes for each page of 64 tokens."""
    previous: int = 0
    """Blocks that held this many best tokens of the row before are kept as well."""


VARIANTS = (
    Variant("mean of 64 (served)", 64, mean, 1),
    Variant("salient mean of 64", 64, salient, 1),
    Variant("salient, fourth power", 64, salient_fourth, 1),
    Variant("mean of 128 (served)", 128, mean, 0.5),
    Variant("mean of 256 (served)", 256, mean, 0.25),
    Variant("blocks of 32", 32, mean, 2),
    Variant("two halves", 64, halves, 2),
    Variant("mean and outlier", 64, outlier, 2),
    Variant("mean and spread", 64, spread, 2),
    Variant("extremes (Quest) and mean", 64, extremes, 3),
    Variant("mean of 64, row before", 64, mean, 1, previous=32),
    Variant("best token (bound)", 64, best_token, 64),
)
