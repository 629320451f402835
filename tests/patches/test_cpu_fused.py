"""The fused indexer's stand-ins (GLM-5) against loops in plain Python."""

import math

import pytest
import torch

from sglang_hisa.patches.cpu import fused
from tests.patches.test_cpu_stand_ins import nearest

ROPE, DIM = 64, 128


def cos_sin(positions=90):
    angles = torch.arange(positions)[:, None] / 100 ** (torch.arange(ROPE // 2) / (ROPE // 2))
    return torch.cat((angles.cos(), angles.sin()), dim=1)


def turned(row, position):
    """Pairs of neighbours in the first 64 elements, turned by the position's angles."""
    out = list(row)
    for i in range(ROPE // 2):
        angle = position / 100 ** (i / (ROPE // 2))
        a, b = row[2 * i], row[2 * i + 1]
        out[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        out[2 * i + 1] = b * math.cos(angle) + a * math.sin(angle)
    return out


def test_key_norm_rope():
    generator = torch.Generator().manual_seed(0)
    key, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((3, DIM), (DIM,), (DIM,)))
    positions = torch.tensor([0, 7, 89])
    got = fused.key_norm_rope(key.to(torch.bfloat16), weight, bias, 1e-6, cos_sin(), positions)
    assert got.dtype == torch.bfloat16 and got.shape == key.shape
    for row, out, position in zip(key.to(torch.bfloat16).tolist(), got.tolist(), positions.tolist()):
        mean = sum(row) / DIM
        deviation = math.sqrt(sum((x - mean) ** 2 for x in row) / DIM + 1e-6)
        normed = [(x - mean) / deviation * w + b for x, w, b in zip(row, weight.tolist(), bias.tolist())]
        assert out == pytest.approx(turned(normed, position), rel=2**-7, abs=2**-8)


def test_query_rope_quant():
    q = torch.randn(2, 3, DIM, generator=torch.Generator().manual_seed(1)) * 5
    q[1, 2] *= 1e-9  # below the floor of the scale
    gates = torch.randn(2, 8, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)[:, 5:]  # a slice
    positions = torch.tensor([4, 61])
    got, weights = fused.query_rope_quant(q.to(torch.bfloat16), gates, 0.25, cos_sin(), positions)
    assert got.dtype == torch.float8_e4m3fn and got.shape == q.shape and weights.shape == (2, 3, 1)
    for token, position in enumerate(positions.tolist()):
        for head in range(3):
            row = turned(q[token, head].to(torch.bfloat16).tolist(), position)
            scale = max(max(map(abs, row)), 1e-4) / 448
            assert float(weights[token, head]) == pytest.approx(
                float(gates[token, head]) * 0.25 * scale, rel=1e-5
            )
            off = [
                abs(a - nearest(x / scale))
                for a, x in zip(got[token, head].float().tolist(), row)
                if abs(a - nearest(x / scale)) > 1e-6
            ]
            assert len(off) <= 2, "fp32 may tip a value between two codes, no more"
