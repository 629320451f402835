"""DeepGEMM's MQA logits in PyTorch: sum over heads of ``w * relu(q . k)``, times the key's scale."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import torch

PAGE, DIM = 64, 128


def _scores(q: torch.Tensor, keys: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """q ``[t, h, d]``, keys fp32 ``[t or 1, n, d]``, weights ``[t, h]`` -> fp32 ``[t, n]``."""
    dots = torch.relu(torch.matmul(keys, q.float().transpose(1, 2)))
    return torch.einsum("tnh,th->tn", dots, weights.float())


def flat_logits(
    q: torch.Tensor,
    kv: tuple[torch.Tensor, torch.Tensor],
    weights: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    clean_logits: bool = False,
    max_seqlen_k: int = 0,
) -> torch.Tensor:
    """fp32 ``[rows, keys]``; with ``max_seqlen_k`` each row's first key is in column 0."""
    scores = _scores(q, (kv[0].float() * kv[1].float()[:, None])[None], weights)
    if not max_seqlen_k:
        return scores
    columns = starts[:, None].long() + torch.arange(max_seqlen_k)
    return torch.gather(scores, 1, columns.clamp_max(scores.shape[1] - 1))


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
    """fp32 ``[rows, max_len]`` of one query token a row; NaN past the row's length, as nothing is written."""
    rows = q.shape[0]
    lengths = context_lens.reshape(rows)
    pages = min(block_table.shape[1], -(-max_len // PAGE))
    inside = torch.arange(pages) * PAGE < lengths[:, None]
    raw = kv_cache.view(kv_cache.shape[0], -1)[block_table[:, :pages].masked_fill(~inside, 0).long()]
    keys = raw[..., : PAGE * DIM].contiguous().view(torch.float8_e4m3fn).float().view(rows, -1, DIM)
    scales = raw[..., PAGE * DIM :].contiguous().view(torch.float32).view(rows, -1, 1)
    out = torch.full((rows, max_len), float("nan"))
    scores = _scores(q[:, 0], keys * scales, weights)[:, :max_len]
    out[:, : scores.shape[1]] = scores
    return out.masked_fill_(torch.arange(max_len) >= lengths[:, None], float("nan"))


def flat_fn() -> Any:
    """0.5.23 resolves the function by a call."""
    return flat_logits


def paged_fn() -> Any:
    """The same for the paged one."""
    return paged_logits


def install_deep_gemm() -> None:
    """``dsa_indexer`` imports deep_gemm on CUDA only, yet its bodies name it."""
    module = importlib.import_module("sglang.srt.layers.attention.dsa.dsa_indexer")
    module.deep_gemm = SimpleNamespace(  # type: ignore[attr-defined]
        fp8_mqa_logits=flat_logits, fp8_paged_mqa_logits=paged_logits
    )
