"""What must hold of every row's candidates, whatever the scores are."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import torch

from sglang_hisa import PAGE, budget, indexer
from sglang_hisa import plan as planning
from sglang_hisa.config import Config
from sglang_hisa.kernels.layout import FP8, HEAD_DIM
from sglang_hisa.summaries import LayerSummaries

TOPK, HEADS = 80, 2
STOCK: Any = SimpleNamespace(
    index_topk=TOPK, init_tokens=0, local_tokens=0, table_topk=False, schedule=None, topk_plan=None
)


@functools.cache
def query(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """q fp8 ``[rows, HEADS, 128]`` and weights fp32 ``[rows, HEADS]``, some of them negative."""
    random = torch.Generator().manual_seed(rows)
    q = torch.randn(rows, HEADS, HEAD_DIM, generator=random).to(FP8)
    return q, torch.randn(rows, HEADS, generator=random)


def rows_of(requests: list[torch.Tensor], config: Config) -> planning.Rows:
    """A decode step of requests with these slots; what is left of a table row holds other rows' pages."""
    lengths = [len(slots) for slots in requests]
    pages = [(slots[::PAGE] // PAGE).int() for slots in requests]
    width = max(len(part) for part in pages) + 2
    stale = torch.cat([part.flip(0) for part in pages]).repeat(width)
    table = torch.stack([torch.cat((part, stale[: width - len(part)])) for part in pages])
    rule = budget.make_rule(config, "decode", TOPK, 0, 0)
    bound = table.shape[1] * PAGE
    return planning.Rows(
        lengths=torch.tensor(lengths, dtype=torch.int32),
        table=table,
        table_rows=None,
        max_length=bound,
        blocks=rule.blocks,
        share=rule.share,
        width=rule.width(bound),
    )


def setup(config: Config) -> planning.Setup:
    return planning.Setup(config, STOCK, "torch")


def plan(rows: planning.Rows, config: Config, *, seals: bool = False) -> planning.Plan:
    return planning.make_decode_plan(rows, setup(config), "triton", seals=seals)


def check(requests: list[torch.Tensor], layer: LayerSummaries, config: Config) -> int:
    """Candidates of each request's newest token.

    They are pages of the request, in order, once each, none past its length; sink, local window and tail are
    among them; and they hold at least min(length, topk) tokens. Returns how many rows were pruned.
    """
    rows = rows_of(requests, config)
    made = plan(rows, config)
    q, weights = query(len(requests))
    queries = indexer.Queries(q, weights, layer)
    physical, logical = indexer.candidates(queries, made, made.chunks[0], setup(config), None, logical=True)
    assert logical is not None
    for row, slots in enumerate(requests):
        length, tokens = len(slots), int(made.chunks[0].candidates[row])
        assert min(length, TOPK) <= tokens <= length
        kept = logical[row, : -(-tokens // PAGE)].tolist()
        last = (length - 1) // PAGE
        assert kept == sorted(set(kept)) and kept[-1] == last, "the tail, and no page past the length"
        assert (tokens - length) % PAGE == 0, "the tail page is as full as the row's"
        own = slots[::PAGE] // PAGE
        assert physical[row, : len(kept)].tolist() == own[kept].tolist()
        sink = range(min(last, max(0, config.sink_tokens - 1) // PAGE) + 1)
        local = range(max(0, length - max(1, config.local_tokens)) // PAGE, last + 1)
        assert set(sink) | set(local) <= set(kept)
    return int((made.chunks[0].candidates < rows.lengths).sum())
