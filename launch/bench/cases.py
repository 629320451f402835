"""Inputs of the kernel benchmark, and the check that a speed-up needs before it is reported."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa.indexer import Queries
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import FP8, HEAD_DIM, KEY_BYTES, ROW_BYTES, dequantised_pages
from sglang_hisa.summaries import LayerSummaries

FLUSH_BYTES = 256 << 20


@dataclass
class Cache:
    """One index-K buffer with summaries, large enough to rotate over cold pages."""

    layer: LayerSummaries
    pages: int


def make_cache(pages: int, seed: int = 0) -> Cache:
    """Random index keys (fp8 of normals) and scales on the GPU, summaries sealed."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    index_k = torch.empty((pages, ROW_BYTES), dtype=torch.uint8, device="cuda")
    for start in range(0, pages, 1 << 14):
        part = index_k[start : start + (1 << 14)]
        keys = torch.randn((part.shape[0], KEY_BYTES), generator=generator, device="cuda") * 60
        part[:, :KEY_BYTES] = keys.clamp_(-448, 448).to(FP8).view(torch.uint8)
        scales = torch.rand((part.shape[0], PAGE), generator=generator, device="cuda") * 0.01 + 0.005
        part[:, KEY_BYTES:] = scales.view(torch.uint8)
    keys = torch.zeros((pages, HEAD_DIM), dtype=FP8, device="cuda")
    layer = LayerSummaries(index_k, keys, torch.zeros(pages, device="cuda"))
    for start in range(0, pages, 1 << 20):
        ids = torch.arange(start, min(pages, start + (1 << 20)), device="cuda")
        kernels.seal_pages(index_k, ids, layer.keys, layer.scales, "triton")
    return Cache(layer, pages)


def make_queries(
    rows: int, heads: int, seed: int = 1, device: str | torch.device = "cuda"
) -> tuple[torch.Tensor, torch.Tensor]:
    """fp8 ``[rows, heads, 128]`` and fp32 ``[rows, heads]``, both signs of weights."""
    generator = torch.Generator(device=device).manual_seed(seed)
    q = torch.randn((rows, heads, HEAD_DIM), generator=generator, device=device) * 30
    weights = torch.randn((rows, heads), generator=generator, device=device) * 0.02
    return q.clamp_(-448, 448).to(FP8), weights


@dataclass(frozen=True)
class Asked:
    """What the rows of a step had to choose, on the host; lists have a value for each row."""

    table_rows: list[int]
    lengths: list[int]
    picks: list[int]
    """Earlier blocks to keep."""
    block: int
    topk: int
    group: int = 1
    """Adjacent rows that chose together."""
    gathered: bool = False
    """Blocks' means were rounded to fp8 before they were scored, as prefill's are."""
    routed: Queries | None = None
    """Queries and weights of the heads that scored tokens; None: all did."""


def check_rows(
    chosen: torch.Tensor, queries: Queries, table: torch.Tensor, asked: Asked, rows: list[int]
) -> None:
    """Check chosen slots of some rows against plain PyTorch, tie-aware. Raises ``AssertionError``.

    The slots must lie in the pages of blocks whose coarse score is among the ``picks`` best (up to
    rounding), there must be ``min(candidates, topk)`` distinct ones, and no token left out may score
    higher than the lowest one taken (up to rounding). Of a ``group``, a row chose with those of the positions
    beside it up to multiples of the group.
    """
    q, weights, layer = queries.q, queries.weights, queries.layer
    lengths, picks, block, group = asked.lengths, asked.picks, asked.block, asked.group
    per_block = block // PAGE
    for row in rows:
        length, pages = lengths[row], table[asked.table_rows[row]].long()
        slots = chosen[row][chosen[row] >= 0].long()
        assert slots.unique().numel() == slots.numel(), f"row {row}: a slot was taken twice"
        count = (length + PAGE - 1) // PAGE
        where = torch.full((int(layer.index_k.shape[0]),), -1, device=pages.device)
        where[pages[:count]] = torch.arange(count, device=pages.device)
        at = where[slots // PAGE]
        assert bool((at >= 0).all()), f"row {row}: a slot outside the row's own pages"
        positions = at * PAGE + slots % PAGE
        assert bool((positions < length).all()), f"row {row}: a slot beyond the row's length"
        earlier = (length - 1) // block
        kept = torch.ones(earlier + 1, dtype=torch.bool, device=pages.device)
        tolerance = 0.0
        if picks[row] < earlier:
            own = pages[: earlier * per_block]
            if asked.gathered:
                key, scale = reference.gather_blocks(own, layer.keys, layer.scales, per_block)
                mean = key.float() * scale[:, None]
            else:
                summary = layer.keys[own].float() * layer.scales[own, None]
                mean = summary.view(earlier, per_block, HEAD_DIM).mean(dim=1)
            near = range(max(row - group + 1, 0), min(row + group, len(lengths)))
            chose = [r for r in near if (lengths[r] - 1) // group == (length - 1) // group]
            coarse = torch.stack([reference.mqa_scores(q[r], weights[r], mean) for r in chose]).sum(dim=0)
            coarse[0] = float("inf")
            last = max(lengths[r] for r in chose)
            coarse[max(last - PAGE - group + 1, 0) // block :] = float("inf")
            tolerance = 0.02 * float(coarse[coarse.isfinite()].std())
            kept[:earlier] = coarse >= coarse.topk(picks[row]).values[-1] + tolerance
            maybe = coarse >= coarse.topk(picks[row]).values[-1] - tolerance
            used = torch.zeros(earlier + 1, dtype=torch.bool, device=pages.device)
            used[positions // block] = True
            assert bool((~used[:earlier] | maybe).all()), f"row {row}: a token of a block that was not picked"
        tokens = torch.arange(length, device=pages.device)
        sure = tokens[kept[tokens // block]]
        keys = dequantised_pages(layer.index_k, pages[:count]).view(-1, HEAD_DIM)[:length]
        scorer = queries if asked.routed is None else asked.routed
        score = reference.mqa_scores(scorer.q[row], scorer.weights[row], keys)
        candidates = min(length - (earlier - picks[row]) * block, length)
        assert slots.numel() == min(candidates, asked.topk), f"row {row}: {slots.numel()} tokens chosen"
        left = torch.ones(length, dtype=torch.bool, device=pages.device)
        left[positions] = False
        rest = sure[left[sure]]
        if rest.numel():
            limit = float(score[positions].min()) + 2e-3 * float(score.abs().max())
            assert float(score[rest].max()) <= limit, f"row {row}: a better token was left out"
