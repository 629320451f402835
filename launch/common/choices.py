"""Compare which tokens two servers chose, from ``meta_info["indexer_topk"]`` of the same request."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sglang_hisa.budget import make_rule
from sglang_hisa.config import PHASES, Config
from sglang_hisa.kernels import reference

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


def decode(meta_info: Mapping[str, Any], layers: int, topk: int) -> np.ndarray:
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
    """Share of stock's tokens that HISA chose too, fp64 ``[rows, layers]``."""
    context, layers = rows.stop + 1, stock.chosen.shape[1]
    step = max(1, _CELLS // (context * layers))
    parts = [np.zeros((0, layers))]
    for start in range(rows.start, rows.stop, step):
        part = slice(start, min(start + step, rows.stop))
        parts.append(_share(stock.chosen[part], hisa.chosen[part], context))
    return np.concatenate(parts)


def _share(stock: np.ndarray, hisa: np.ndarray, context: int) -> np.ndarray:
    """One group of rows: mark the tokens of each arm. -1 marks a spare last column."""
    marks = []
    for chosen in (stock, hisa):
        marked = np.zeros((*chosen.shape[:2], context + 1), dtype=bool)
        np.put_along_axis(marked, chosen, True, axis=2)
        marks.append(marked[..., :-1])
    both: np.ndarray = (marks[0] & marks[1]).sum(axis=2)
    return np.asarray(both / np.maximum(marks[0].sum(axis=2), 1))


def scored(config: Config, phase: str, topk: int, contexts: np.ndarray) -> np.ndarray:
    """Share of its context that a row of each length scores token by token, fp64 ``[rows]``."""
    rule = make_rule(config, phase, topk, 0, 0)
    lengths = torch.from_numpy(contexts.astype(np.int32))
    _, candidates = reference.plan_rows(lengths, rule.blocks, rule.share, rule.block)
    return np.asarray(candidates.numpy() / contexts)


@dataclass(frozen=True)
class Bin:
    """Rows of one phase whose context is above ``low`` and at most ``high`` tokens; shares are means."""

    phase: str
    low: int
    high: int
    rows: int
    scored: float
    """Share of the context that HISA scored token by token."""
    first_layer: float
    """Share of stock's tokens that HISA chose too in layer 0, whose inputs are the same in both arms."""
    all_layers: float


def summarise(pairs: Sequence[tuple[Answer, Answer]], config: Config, edges: Sequence[int]) -> list[Bin]:
    """Shares by phase and context length.

    Args:
        pairs: (stock, HISA) answers to the same requests.
        config: settings of the HISA arm.
        edges: ascending context lengths in tokens; bins lie between them.
    """
    bins = []
    for phase in PHASES:
        contexts, kept = [], []
        for stock, hisa in pairs:
            rows = comparable_rows(stock, hisa)
            own = np.arange(rows.start, rows.stop) + 1
            mine = (own <= stock.prompt_tokens) == (phase == "prefill")
            contexts.append(own[mine])
            kept.append(shares(stock, hisa, rows)[mine])
        context, share = np.concatenate(contexts), np.concatenate(kept)
        for low, high in itertools.pairwise(edges):
            mask = (context > low) & (context <= high)
            if mask.any():
                part = scored(config, phase, pairs[0][0].topk, context[mask]).mean()
                first, every = share[mask, 0].mean(), share[mask].mean()
                bins.append(Bin(phase, low, high, int(mask.sum()), float(part), float(first), float(every)))
    return bins
