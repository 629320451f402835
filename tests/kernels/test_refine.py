"""Token scores, gathered summaries and position maps against plain PyTorch."""

import pytest
import torch

from sglang_hisa import kernels
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import FP8, PAGE

from .conftest import make_case

LENGTHS = [1, 0, 64, 191, 640, 65]


@pytest.mark.parametrize("heads", [4, 32, 64])
@pytest.mark.parametrize("scale", [0.05, 40.0])
def test_refine(device, heads, scale):
    case = make_case(device, LENGTHS, heads=heads, scale=scale, seed=heads)
    table = case.table.clamp_max(case.index_k.shape[0] - 1)
    shape = (len(LENGTHS), table.shape[1] * PAGE)
    ours, truth = (torch.full(shape, float("nan"), device=device) for _ in range(2))
    args = (case.q, case.weights, case.index_k, table, case.lengths)
    kernels.refine_logits(*args, ours, "triton")
    kernels.refine_logits(*args, truth, "torch")
    for row, length in enumerate(LENGTHS):
        assert ours[row, length:].isnan().all(), "a logit beyond the row's length was written"
        if length:
            error = (ours[row, :length] - truth[row, :length]).abs().max()
            assert error <= 1e-3 * truth[row, :length].abs().max()


@pytest.mark.parametrize("rows", [2, 5])
@pytest.mark.parametrize("heads", [4, 64])
def test_refine_of_rows_that_share_their_pages(device, heads, rows):
    """Adjacent lengths, a pair that ends at a page's end, a last row alone."""
    lengths = [640 - 1, 640, 65, 66, 191][:rows]
    case = make_case(device, lengths, heads=heads, seed=heads)
    table = case.table.clamp_max(case.index_k.shape[0] - 1)
    table[1::2] = table[::2][: len(table[1::2])]
    ours, truth = (torch.full((rows, 640), float("nan"), device=device) for _ in range(2))
    args = (case.q, case.weights, case.index_k, table, case.lengths)
    kernels.refine_logits(*args, ours, "triton", group=2)
    kernels.refine_logits(*args, truth, "torch")
    assert torch.equal(ours.isnan(), truth.isnan())
    written = ~truth.isnan()
    assert (ours - truth)[written].abs().max() <= 1e-3 * truth[written].abs().max()


@pytest.mark.parametrize("per_block", [1, 2, 4])
def test_gather(device, per_block):
    case = make_case(device, [64 * 30], heads=4)
    pages = case.table[0, : 7 * per_block]
    keys, scales = kernels.gather_blocks(pages, case.keys, case.scales, per_block, "triton")
    cpu = (pages.cpu(), case.keys.cpu(), case.scales.cpu())
    mean = cpu[1].float()[cpu[0].long()] * cpu[2][cpu[0].long(), None]
    mean = mean.view(7, per_block, -1).double().mean(dim=1)
    got = keys.cpu().double() * scales.cpu().double()[:, None]
    assert ((got - mean).abs() <= mean.abs() / 16 + scales.cpu().double()[:, None] * 2**-8).all()
    want, want_scales = reference.gather_blocks(*cpu, per_block)
    assert keys.dtype == FP8
    assert (keys.cpu().view(torch.uint8) != want.view(torch.uint8)).float().mean() < 0.01
    assert torch.allclose(scales.cpu(), want_scales, rtol=1e-6)


@pytest.mark.parametrize("offsets", [False, True])
def test_positions(device, offsets):
    table = torch.randint(0, 5000, (4, 11), dtype=torch.int32)
    positions = torch.randint(-1, 11 * PAGE, (4, 77), dtype=torch.int32)
    add = torch.tensor([0, 3, 1000, 7], dtype=torch.int32) if offsets else None
    got = kernels.map_positions(
        positions.to(device), table.to(device), None if add is None else add.to(device), "triton"
    )
    for row in range(4):
        for column in range(77):
            p = int(positions[row, column])
            want = (
                -1
                if p < 0
                else int(table[row, p // PAGE]) * PAGE + p % PAGE + (int(add[row]) if offsets else 0)
            )
            assert int(got[row, column]) == want
