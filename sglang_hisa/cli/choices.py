"""Compare which tokens two servers chose, from ``meta_info["indexer_topk"]`` of the same request."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_CELLS = 1 << 24
"""Rows are compared in groups of at most this many (row, token) cells: 16 MiB."""


@dataclass(frozen=True)
class Answer:
    """One answered request.

    ``chosen`` is int32 ``[tokens - 1, layers, index_topk]``: positions in the request that each token's
    row chose, -1 where a row has fewer; the last output token was never an input.
    """

    prompt_tokens: int
    cached_tokens: int
    output_ids: tuple[int, ...]
    seconds: float
    chosen: np.ndarray

    @property
    def topk(self) -> int:
        return int(self.chosen.shape[2])


def decode(meta_info: dict[str, Any], layers: int, topk: int) -> np.ndarray:
    """The field as int32 ``[rows, layers, topk]``. Raises ``ValueError`` where it is absent or cut."""
    text = meta_info.get("indexer_topk")
    if text is None:
        raise ValueError("the answer has no indexer_topk: start the server with --enable-return-indexer-topk")
    flat = np.frombuffer(base64.b64decode(text), dtype=np.int32)
    if flat.size % (layers * topk):
        raise ValueError(f"indexer_topk holds {flat.size} numbers, not a multiple of {layers} x {topk}")
    return flat.reshape(-1, layers, topk)


def comparable_rows(stock: Answer, hisa: Answer) -> range:
    """Rows that both servers computed in this request, from the same tokens, and with a choice to make.

    Cached rows are left out: their choice was made by an earlier request. A row of at most ``topk``
    tokens takes all of them. Past the first different output token the two contexts differ.
    """
    same = 0
    for a, b in zip(stock.output_ids, hisa.output_ids):
        if a != b:
            break
        same += 1
    start = max(stock.cached_tokens, hisa.cached_tokens, stock.topk)
    stop = min(stock.prompt_tokens + same, len(stock.chosen), len(hisa.chosen))
    return range(start, max(start, stop))


def shares(stock: Answer, hisa: Answer, rows: range) -> np.ndarray:
    """Share of stock's tokens that HISA chose too, fp64 ``[rows]``, the mean over layers."""
    context = rows.stop + 1
    step = max(1, _CELLS // (context * stock.chosen.shape[1]))
    parts = [np.zeros(0)]
    for start in range(rows.start, rows.stop, step):
        part = slice(start, min(start + step, rows.stop))
        parts.append(_share(stock.chosen[part], hisa.chosen[part], context))
    return np.concatenate(parts)


def _share(stock: np.ndarray, hisa: np.ndarray, context: int) -> np.ndarray:
    """One group: mark stock's tokens, then count HISA's that are marked. -1 marks a spare last column."""
    marked = np.zeros((*stock.shape[:2], context + 1), dtype=bool)
    np.put_along_axis(marked, stock, True, axis=2)
    marked[..., -1] = False
    picked = np.zeros_like(marked)
    np.put_along_axis(picked, hisa, True, axis=2)
    per_layer = (marked & picked).sum(axis=2) / np.maximum(marked.sum(axis=2), 1)
    return per_layer.mean(axis=1)


@dataclass(frozen=True)
class Bin:
    """Rows whose context is above ``low`` and at most ``high`` tokens."""

    phase: str
    low: int
    high: int
    rows: int
    share: float
    scored: float
    """Mean share of the context that HISA scored token by token."""


def summarise(
    pairs: Sequence[tuple[Answer, Answer]], edges: Sequence[int], budgets: dict[str, int]
) -> Iterator[Bin]:
    """Shares by phase and context length.

    Args:
        pairs: (stock, HISA) answers to the same requests.
        edges: ascending context lengths in tokens; bins lie between them.
        budgets: candidate tokens of a "prefill" and of a "decode" row.
    """
    lengths: dict[str, list[np.ndarray]] = {phase: [] for phase in budgets}
    values: dict[str, list[np.ndarray]] = {phase: [] for phase in budgets}
    for stock, hisa in pairs:
        rows = comparable_rows(stock, hisa)
        share = shares(stock, hisa, rows)
        context = np.arange(rows.start, rows.stop) + 1
        is_prefill = context <= stock.prompt_tokens
        for phase, mask in (("prefill", is_prefill), ("decode", ~is_prefill)):
            lengths[phase].append(context[mask])
            values[phase].append(share[mask])
    for phase, budget in budgets.items():
        context, share = np.concatenate(lengths[phase]), np.concatenate(values[phase])
        for low, high in itertools.pairwise(edges):
            mask = (context > low) & (context <= high)
            if mask.any():
                scored = np.minimum(1.0, budget / context[mask]).mean()
                yield Bin(phase, low, high, int(mask.sum()), float(share[mask].mean()), float(scored))
