"""Plain-PyTorch truth of every kernel. Slow and direct on purpose; also the CPU path of the server."""

from __future__ import annotations

import torch

from sglang_hisa import PAGE, SHARE_ONE
from sglang_hisa.kernels.layout import FP8, FP8_MAX, HEAD_DIM, KEY_BYTES, dequantised_pages, scale_view

MIN_EXPONENT = 30
"""Smallest biased exponent of the page's largest element that the fixed-point mean uses (2**-97)."""


def page_means(index_k: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
    """Means of the 64 keys of each page, ``[n, 128]`` fp32, the same bits in any summation order.

    Elements are truncated to integers of at most 23 bits relative to the page's largest one. Sums of them
    are int32, so a Triton tile, this function and another GPU all give the same bits.
    """
    values = dequantised_pages(index_k, pages)
    largest = values.abs().amax(dim=(1, 2))
    exponent = (largest.view(torch.int32) >> 23).clamp_min(MIN_EXPONENT)
    up = ((276 - exponent) << 23).view(torch.float32)
    whole = (values * up[:, None, None]).to(torch.int32)
    down = ((exponent - 28) << 23).view(torch.float32)
    return whole.sum(dim=1, dtype=torch.int32).float() * down[:, None]


def quantise(means: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``[n, 128]`` fp32 -> fp8 ``[n, 128]`` and fp32 scale ``[n]``, by the rule of the index keys.

    scale = max(1e-4, absmax) / 448 (SGLang ``fused_store_index_cache.cuh``), as a product with 1/448.
    """
    scale = means.abs().amax(dim=1).clamp_min(1e-4) * (1.0 / FP8_MAX)
    return (means / scale[:, None]).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale


def seal_pages(index_k: torch.Tensor, pages: torch.Tensor, keys: torch.Tensor, scales: torch.Tensor) -> None:
    """Write the summaries of ``pages``; see :func:`sglang_hisa.kernels.seal.seal_pages`."""
    if pages.numel():
        key, scale = quantise(page_means(index_k, pages))
        keys.view(torch.uint8)[pages.long()] = key.view(torch.uint8)
        scales[pages.long()] = scale


def seal_tokens(index_k: torch.Tensor, slots: torch.Tensor, keys: torch.Tensor, scales: torch.Tensor) -> None:
    """Write the summaries of pages whose last slot is among ``slots``."""
    done = slots[slots % PAGE == PAGE - 1]
    seal_pages(index_k, done // PAGE, keys, scales)


def completed_pages(
    table: torch.Tensor, table_rows: torch.Tensor | None, lengths: torch.Tensor
) -> torch.Tensor:
    """Physical pages that the rows' last tokens completed; arguments as in :func:`coarse_scores`."""
    ends = torch.nonzero((lengths > 0) & (lengths % PAGE == 0)).flatten()
    sources = ends if table_rows is None else table_rows[ends].long()
    return table[sources, (lengths[ends] // PAGE - 1).long()]


def mqa_scores(q: torch.Tensor, weights: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """DSA's indexer score, sum over heads of ``w * relu(q . k)``.

    q ``[h, 128]``, weights ``[h]`` fp32, keys ``[n, 128]`` fp32 -> ``[n]`` fp32
    (DeepSeek-V3.2 report, equation 1; q and k scales are folded into ``weights`` and ``keys``).
    """
    return (torch.relu(keys @ q.float().T) * weights[None, :]).sum(dim=1)


def route_heads(q: torch.Tensor, weights: torch.Tensor, kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row's heads of the largest weights; see :func:`sglang_hisa.kernels.route.route_heads`."""
    size = torch.where(weights.isnan(), torch.inf, weights.abs())  # of NaN and infinity the earlier head
    best = torch.sort(size, dim=1, descending=True, stable=True).indices[:, :kept]
    head = best.sort(dim=1).values
    chosen = torch.gather(q.view(torch.uint8), 1, head[:, :, None].expand(-1, -1, HEAD_DIM))
    return chosen.view(FP8), weights.gather(1, head)


def slot_scores(
    q: torch.Tensor, weights: torch.Tensor, index_k: torch.Tensor, slots: torch.Tensor
) -> torch.Tensor:
    """DSA's indexer score of each row's own slots.

    q fp8 ``[n, h, 128]``, weights fp32 ``[n, h]``, slots int ``[n, k]`` (negative ones score -inf) -> fp32
    ``[n, k]``. Rows are taken 64 at a time: 2048 dequantised keys of a row are 1 MiB.
    """
    keys = index_k[:, :KEY_BYTES].unflatten(1, (PAGE, HEAD_DIM))
    scales = scale_view(index_k)[:, KEY_BYTES // 4 :]
    out = []
    for some_q, some_w, some in zip(q.split(64), weights.split(64), slots.long().split(64)):
        at = some.clamp_min(0)
        page, token = at // PAGE, at % PAGE
        dots = torch.relu(keys[page, token].view(FP8).float() @ some_q.float().transpose(1, 2))
        score = (dots @ some_w[:, :, None]).squeeze(2) * scales[page, token]
        out.append(score.masked_fill(some < 0, float("-inf")))
    return torch.cat(out)


def coarse_scores(
    q: torch.Tensor,
    weights: torch.Tensor,
    keys: torch.Tensor,
    scales: torch.Tensor,
    table: torch.Tensor,
    table_rows: torch.Tensor | None,
    lengths: torch.Tensor,
    picks: torch.Tensor,
    pages_per_block: int,
    out: torch.Tensor,
) -> None:
    """Scores of each row's earlier blocks; see :func:`sglang_hisa.kernels.coarse.coarse_scores`."""
    block = pages_per_block * PAGE
    for row, (length, pick) in enumerate(zip(lengths.tolist(), picks.tolist())):
        earlier = max(length - 1, 0) // block
        if pick >= earlier:
            continue
        source = row if table_rows is None else int(table_rows[row])
        pages = table[source, : earlier * pages_per_block].long()
        summary = keys[pages].float() * scales[pages, None]
        mean = summary.view(earlier, pages_per_block, HEAD_DIM).mean(dim=1)
        out[row, :earlier] = mqa_scores(q[row], weights[row], mean)


def pick_pages(
    scores: torch.Tensor,
    lengths: torch.Tensor,
    picks: torch.Tensor,
    table: torch.Tensor,
    table_rows: torch.Tensor | None,
    pages_per_block: int,
    sink_blocks: int,
    local_tokens: int,
    physical: torch.Tensor,
    logical: torch.Tensor | None,
    group: int = 1,
) -> None:
    """Candidate pages of each row; see :func:`sglang_hisa.kernels.pick.pick_pages`."""
    block = pages_per_block * PAGE
    physical.zero_()
    if logical is not None:
        logical.zero_()
    for first in range(0, scores.shape[0], group):
        row = slice(first, first + group)
        length, pick = int(lengths[first]), int(picks[first])
        if length <= 0:
            continue
        earlier = (length - 1) // block
        kept = torch.arange(earlier, device=scores.device)
        if pick < earlier:
            score = scores[row, :earlier].sum(dim=0)
            forced = kept < sink_blocks
            forced |= kept >= max(length - local_tokens, 0) // block
            best = torch.sort(score[~forced], descending=True, stable=True).indices
            kept = torch.cat((kept[forced], kept[~forced][best]))[:pick].sort().values
        inside = torch.arange(pages_per_block, device=scores.device)
        pages = (kept[:, None] * pages_per_block + inside).flatten()
        own = torch.arange(earlier * pages_per_block, (length + PAGE - 1) // PAGE, device=scores.device)
        chosen = torch.cat((pages, own))
        source = first if table_rows is None else int(table_rows[first])
        physical[row, : len(chosen)] = table[source, chosen]
        if logical is not None:
            logical[row, : len(chosen)] = chosen.to(logical.dtype)


def refine_logits(
    q: torch.Tensor,
    weights: torch.Tensor,
    index_k: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Token scores inside the candidates; see :func:`sglang_hisa.kernels.refine.refine_logits`."""
    for row, length in enumerate(lengths.tolist()):
        pages = table[row, : (length + PAGE - 1) // PAGE]
        keys = dequantised_pages(index_k, pages).view(-1, HEAD_DIM)
        out[row, :length] = mqa_scores(q[row], weights[row], keys[:length])


def map_positions(positions: torch.Tensor, table: torch.Tensor, offsets: torch.Tensor | None) -> torch.Tensor:
    """Candidate positions -> slots; see :func:`sglang_hisa.kernels.positions.map_positions`."""
    valid = positions >= 0
    at = positions.clamp_min(0).long()
    out = torch.gather(table, 1, at // PAGE).to(torch.int32) * PAGE + (at % PAGE).to(torch.int32)
    if offsets is not None:
        out = out + offsets[:, None].to(torch.int32)
    return out.masked_fill(~valid, -1)


def gather_blocks(
    pages: torch.Tensor, keys: torch.Tensor, scales: torch.Tensor, pages_per_block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Block summaries in the order of ``pages``; see :func:`sglang_hisa.kernels.gather.gather_blocks`."""
    pages = pages.long()
    if pages_per_block == 1:
        return keys.view(torch.uint8)[pages].view(FP8), scales[pages]
    summary = keys.view(torch.uint8)[pages].view(FP8).float() * scales[pages, None]
    return quantise(summary.view(-1, pages_per_block, HEAD_DIM).sum(dim=1) / pages_per_block)


def plan_rows(
    lengths: torch.Tensor, blocks: torch.Tensor | int, share: torch.Tensor | int, block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`sglang_hisa.kernels.plan.plan_rows`."""
    earlier = torch.div((lengths - 1).clamp_min(0), block, rounding_mode="floor")
    whole = SHARE_ONE * block
    grown = torch.div(lengths.long() * share + (whole - 1), whole, rounding_mode="floor")
    if isinstance(blocks, torch.Tensor):
        count = torch.maximum(grown, blocks.long())
    else:
        count = grown.clamp_min(blocks)
    picks = torch.minimum(count - 1, earlier.long()).to(torch.int32)
    return picks, (lengths - (earlier - picks) * block).to(torch.int32)


def count_rows(lengths: torch.Tensor, candidates: torch.Tensor, padding: int, sums: torch.Tensor) -> None:
    """See :func:`sglang_hisa.kernels.plan.count_rows`."""
    real = (lengths > padding).to(lengths.dtype)
    sums.add_((torch.stack((real, lengths, candidates)) * real).sum(dim=1))
