"""DeepGEMM's MQA logits in PyTorch: sum over heads of ``w * relu(q . k)``, times the key's scale."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import torch

from sglang_hisa.patches.cpu.tiles import tiles

PAGE, DIM = 64, 128
NUM_SMS = 132
"""SMs of the H100 that the stand-ins imitate; stock splits larger batches."""


def _scores(q: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """q ``[t, h, d]``, keys fp32 ``[t or 1, n, d]``, weights ``[t, h]`` -> fp32 ``[t, n]``."""
    out = torch.empty(q.shape[0], keys.shape[1])
    for part in tiles(q.shape[0], 4 * keys.shape[1] * q.shape[1]):
        mine = keys if keys.shape[0] == 1 else keys[part]
        dots = torch.matmul(mine, q[part].float().transpose(1, 2)).relu_()
        out[part] = torch.einsum("tnh,th->tn", dots, weights[part].float())
    return out


def flat_logits(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    clean_logits: bool = False,
    max_seqlen_k: int = 0,
) -> torch.Tensor:
    """q fp8 ``[rows, heads, 128]``, kv (fp8 ``[keys, 128]``, fp32 ``[keys]``), weights fp32
    ``[rows, heads]``, starts and ends int32 ``[rows]`` -> fp32 ``[rows, keys]``, row stride a multiple
    of 4; with ``max_seqlen_k``, ``[rows, max_seqlen_k]`` with each row's first key in column 0.

    Outside ``starts[i] : ends[i]`` DeepGEMM writes nothing (-inf with ``clean_logits``): NaN here, so that
    a reader of such columns is found.
    """
    scores = _scores(q, (kv[0].float() * kv[1].float()[:, None])[None], weights)
    first, count = torch.zeros_like(starts)[:, None], scores.shape[1]
    if max_seqlen_k:
        first, count = starts[:, None], max_seqlen_k
    at = first.long() + torch.arange(count)
    if max_seqlen_k:
        scores = torch.gather(scores, 1, at.clamp_max(max(scores.shape[1] - 1, 0)))
    outside = (at < starts[:, None]) | (at >= ends[:, None])
    out = torch.empty(scores.shape[0], -(-count // 4) * 4)[:, :count]
    return out.copy_(scores).masked_fill_(outside, float("-inf") if clean_logits else float("nan"))


def paged_logits(
    q: torch.Tensor,
    kv_cache: torch.Tensor,
    weights: torch.Tensor,
    context_lens: torch.Tensor,
    block_table: torch.Tensor,
    schedule: Any,
    max_len: int,
    clean_logits: bool = False,
    indices: torch.Tensor | None = None,
) -> torch.Tensor:
    """q fp8 ``[rows, n, heads, 128]``, kv_cache uint8 ``[pages, 64, 1, 132]`` (64 keys, then 64 fp32 scales),
    weights fp32 ``[rows * n, heads]``, context_lens int32 ``[rows, n]`` (``[rows]`` if n is 1), block_table
    int32 ``[rows, pages]`` -> fp32 ``[rows * n, max_len]``; past a token's length NaN (:func:`flat_logits`).
    """
    if indices is not None:
        raise NotImplementedError("no row indices on a CPU")
    block_table = block_table.repeat_interleave(q.shape[1], dim=0)
    q = q.flatten(0, 1)
    rows = q.shape[0]
    lengths = context_lens.reshape(rows)
    pages = min(block_table.shape[1], -(-max_len // PAGE))
    table = block_table[:, :pages].masked_fill(torch.arange(pages) * PAGE >= lengths[:, None], 0).long()
    nothing = float("-inf") if clean_logits else float("nan")
    out = torch.full((rows, -(-max_len // 4) * 4), nothing)[:, :max_len]
    for part in tiles(rows, pages * PAGE * DIM * 4):
        raw = kv_cache.view(kv_cache.shape[0], -1)[table[part]]
        count = raw.shape[0]
        keys = raw[..., : PAGE * DIM].contiguous().view(torch.float8_e4m3fn).float().view(count, -1, DIM)
        scales = raw[..., PAGE * DIM :].contiguous().view(torch.float32).view(count, -1, 1)
        scores = _scores(q[part], keys.mul_(scales), weights[part])[:, :max_len]
        out[part, : scores.shape[1]] = scores
    return out.masked_fill_(torch.arange(max_len) >= lengths[:, None], nothing)


def schedule(context_lens: torch.Tensor, block_kv: int, num_sms: int, **kwargs: Any) -> torch.Tensor:
    """``get_paged_mqa_logits_metadata``: int32 ``[num_sms + 1, 2]``; nothing to schedule here."""
    return torch.zeros((num_sms + 1, 2), dtype=torch.int32)


def num_sms() -> int:
    """``get_num_sms``."""
    return NUM_SMS


DEEP_GEMM = SimpleNamespace(
    fp8_mqa_logits=flat_logits,
    fp8_paged_mqa_logits=paged_logits,
    get_paged_mqa_logits_metadata=schedule,
    get_num_sms=num_sms,
)


def flat_fn() -> Any:
    """Newer SGLangs resolve each function by a call."""
    return flat_logits


def paged_fn() -> Any:
    """See :func:`flat_fn`."""
    return paged_logits


def schedule_fn() -> Any:
    """See :func:`flat_fn`."""
    return schedule


def install_deep_gemm() -> None:
    """``dsa_indexer`` imports deep_gemm on CUDA only, yet its bodies name it."""
    module = importlib.import_module("sglang.srt.layers.attention.dsa.dsa_indexer")
    module.deep_gemm = DEEP_GEMM  # type: ignore[attr-defined]
