"""The heads that score a row's tokens: those of its largest weights, whatever their sign."""

import pytest
import torch

from sglang_hisa import kernels
from sglang_hisa.kernels.layout import FP8, HEAD_DIM


def rows_of(device, rows, heads, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = (torch.randn(rows, heads, HEAD_DIM, generator=generator) * 30).clamp(-448, 448).to(FP8)
    return q.to(device), torch.randn(rows, heads, generator=generator).to(device)


@pytest.mark.parametrize("heads,kept", [(64, 16), (64, 8), (33, 16), (32, 32), (3, 2), (1, 1)])
def test_the_heads_of_the_largest_weights_stay_in_order(device, heads, kept):
    """Against sorting in Python, row by row."""
    q, weights = rows_of(device, 5, heads, seed=heads)
    got_q, got_weights = kernels.route_heads(q, weights, kept, "triton")
    assert got_q.shape == (5, kept, HEAD_DIM) and got_q.dtype == FP8
    for row, values in enumerate(weights.tolist()):
        want = sorted(sorted(range(heads), key=lambda head: -abs(values[head]))[:kept])
        assert got_weights[row].tolist() == [values[head] for head in want]
        assert torch.equal(got_q[row].view(torch.uint8), q[row, want].view(torch.uint8))


def test_all_heads_are_the_row_itself(device):
    q, weights = rows_of(device, 3, 32)
    got_q, got_weights = kernels.route_heads(q, weights, 32, "triton")
    assert torch.equal(got_q.view(torch.uint8), q.view(torch.uint8))
    assert torch.equal(got_weights, weights)


def test_equal_weights_nan_and_zero(device):
    """The earlier of equal heads, -0 like 0, NaN before all; the same as the reference."""
    nan, inf = float("nan"), float("inf")
    weights = torch.tensor(
        [
            [1.0, -1.0, 1.0, 0.5, -1.0, 1.0, 0.0, -0.0],
            [0.0] * 8,
            [1.0, nan, -inf, 2.0, nan, 3.0, inf, -nan],
            [-0.0, 0.0, 1e-45, -1e-45, 0.0, 3.0, 0.0, 0.0],
        ],
        device=device,
    )
    q, _ = rows_of(device, 4, 8)
    got_q, got_weights = kernels.route_heads(q, weights, 4, "triton")
    wanted = [[0, 1, 2, 4], [0, 1, 2, 3], [1, 2, 4, 6], [0, 2, 3, 5]]
    for backend_q in (got_q, kernels.route_heads(q, weights, 4, "torch")[0]):
        for row, heads in enumerate(wanted):
            assert torch.equal(backend_q[row].view(torch.uint8), q[row, heads].view(torch.uint8))
    assert torch.equal(got_weights[1:2].abs(), torch.zeros(1, 4, device=device))


def test_rows_of_a_larger_tensor(device):
    """Strided rows, as a slice of heads of a wider projection has them; no rows."""
    q, weights = rows_of(device, 4, 64)
    part = (q[:, 16:48], weights[:, 16:48])
    got = kernels.route_heads(*part, 8, "triton")
    want = kernels.route_heads(*(x.contiguous() for x in part), 8, "torch")
    assert all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in zip(got, want))
    assert kernels.route_heads(q[:0], weights[:0], 8, "triton")[0].shape == (0, 8, HEAD_DIM)


@pytest.mark.parametrize("kept", [0, 3, 128])
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_other_numbers_of_heads_are_refused(kept, backend):
    with pytest.raises(ValueError, match="power of two up to 64"):
        kernels.route_heads(*rows_of("cpu", 1, 64), kept, backend)
