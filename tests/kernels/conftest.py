"""Random index-K caches and rows. Kernel tests run in the interpreter, and on a GPU under `-m gpu`."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa.kernels.layout import FP8, HEAD_DIM, KEY_BYTES, ROW_BYTES


@pytest.fixture(params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return torch.device("cpu" if request.param == "interpreter" else "cuda")


def index_cache(pages, device, seed=0, scale=40.0, spread=0.01):
    """Random uint8 [pages, 8448]: fp8 of normals (never a NaN code) and positive fp32 scales."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.empty(pages, ROW_BYTES, dtype=torch.uint8)
    keys = (torch.randn(pages, KEY_BYTES, generator=generator) * scale).clamp(-448, 448)
    out[:, :KEY_BYTES] = keys.to(FP8).view(torch.uint8)
    scales = torch.rand(pages, PAGE, generator=generator) * spread + spread / 100
    out[:, KEY_BYTES:] = scales.view(torch.uint8)
    return out.to(device)


@dataclass
class Case:
    """One step's rows over a sealed cache; page-table tails hold garbage, as they do in a graph."""

    q: torch.Tensor
    weights: torch.Tensor
    index_k: torch.Tensor
    keys: torch.Tensor
    scales: torch.Tensor
    table: torch.Tensor
    table_rows: torch.Tensor | None
    lengths: torch.Tensor


def make_case(device, lengths, *, heads=64, pages=300, mapped=False, seed=0, scale=40.0):
    generator = torch.Generator().manual_seed(seed)
    rows = len(lengths)
    tables = 3 if mapped else rows
    width = max(1, max(-(-length // PAGE) for length in lengths))
    index_k = index_cache(pages, device, seed, scale)
    keys = torch.zeros(pages, HEAD_DIM, dtype=FP8, device=device)
    scales = torch.zeros(pages, device=device)
    kernels.seal_pages(index_k, torch.arange(pages, device=device), keys, scales, "torch")
    table = torch.stack([torch.randperm(pages, generator=generator)[:width] for _ in range(tables)]).int()
    if not mapped:
        for row, length in enumerate(lengths):
            table[row, -(-length // PAGE) :] = 1 << 30  # an access here would be out of bounds
    q = (torch.randn(rows, heads, HEAD_DIM, generator=generator) * 30).clamp(-448, 448).to(FP8)
    return Case(
        q.to(device),
        torch.randn(rows, heads, generator=generator).to(device),
        index_k,
        keys,
        scales,
        table.to(device),
        (torch.arange(rows) % tables).int().to(device) if mapped else None,
        torch.tensor(lengths, dtype=torch.int32, device=device),
    )
