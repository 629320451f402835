"""Token scores, gathered summaries and position maps against plain PyTorch."""

import random
from dataclasses import replace

import pytest
import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import FP8
from sglang_hisa.kernels.refine import pages_of_program
from sglang_hisa.kernels.tuning import DEFAULT
from tests.kernels.conftest import make_case
from tests.kernels.test_filter import overlaps

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


@pytest.mark.parametrize("heads,group", [(64, 4), (32, 4), (16, 8), (8, 8), (8, 16), (3, 4), (32, 8)])
def test_refine_of_larger_groups(device, heads, group):
    """Groups of 4 to 16 rows of one page, the last one short; each row has its own queries and length."""
    lengths = [256 + 1 + at for at in range(group)] + [640 - at for at in range(group - 1)][::-1]
    case = make_case(device, lengths, heads=heads, seed=group)
    table = case.table.clamp_max(case.index_k.shape[0] - 1)
    table[:group], table[group:] = table[0].clone(), table[group].clone()
    ours, truth = (torch.full((len(lengths), 640), float("nan"), device=device) for _ in range(2))
    args = (case.q, case.weights, case.index_k, table, case.lengths)
    kernels.refine_logits(*args, ours, "triton", group=group)
    kernels.refine_logits(*args, truth, "torch")
    assert torch.equal(ours.isnan(), truth.isnan())
    written = ~truth.isnan()
    assert (ours - truth)[written].abs().max() <= 1e-3 * truth[written].abs().max()


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


@pytest.mark.parametrize("seed", range(8))
def test_refine_of_odd_steps(device, seed):
    """Rows of any length, none too, alone or in pairs; a table wider than any; 1 to 8 pages a program."""
    rng = random.Random(seed)
    group, heads = rng.choice([1, 1, 2]), rng.choice([1, 3, 16, 33, 64])
    lengths = [rng.choice([0, 1, 63, 64, 65, rng.randrange(1, 900)]) for _ in range(rng.randrange(1, 8))]
    if group == 2:  # of adjacent lengths, in one page
        lengths = [max(0, length - i % 2) for i, length in enumerate(n for n in lengths for _ in range(2))]
        lengths = lengths[: rng.randrange(1, len(lengths) + 1)]
    case = make_case(device, lengths, heads=heads, seed=seed)
    spare = torch.full((len(lengths), rng.randrange(4)), 1 << 30, dtype=torch.int32, device=device)
    table = torch.cat([case.table, spare], dim=1)
    if group == 2:
        table[1::2] = table[::2][: len(table[1::2])]
    most = rng.choice([1, 2, 8])
    tuning = replace(DEFAULT, refine_programs=1, refine_pages=most)
    assert pages_of_program(len(lengths), table.shape[1], tuning) <= most
    shape = (len(lengths), table.shape[1] * PAGE)
    args = (case.q, case.weights, case.index_k, table, case.lengths)
    truth = torch.full(shape, float("nan"), device=device)
    kernels.refine_logits(*args, truth, "torch")
    for overlap in overlaps(device):
        ours = torch.full(shape, float("nan"), device=device)
        kernels.refine_logits(*args, ours, "triton", group=group, overlap=overlap, tuning=tuning)
        assert torch.equal(ours.isnan(), truth.isnan()), "other columns were written than those of tokens"
        written = ~truth.isnan()
        if written.any():
            assert (ours - truth)[written].abs().max() <= 1e-3 * truth[written].abs().max()


@pytest.mark.parametrize(
    "groups,width,pages",
    [
        *((1, 1, 1), (1, 128, 1), (4, 128, 1), (8, 128, 2), (15, 128, 2), (16, 128, 4), (7, 513, 4)),
        *((64, 128, 16), (128, 128, 32), (4096, 128, 32)),
    ],
)
def test_programs_fill_the_chip_before_they_grow(groups, width, pages):
    assert pages_of_program(groups, width, replace(DEFAULT, refine_programs=512, refine_pages=32)) == pages


def test_a_program_never_has_more_pages_than_the_setting():
    assert pages_of_program(4096, 128, replace(DEFAULT, refine_pages=8)) == 8


@pytest.mark.gpu
def test_refine_follows_the_pick_that_it_does_not_wait_for():
    """Coarse, pick and refine as a server launches them, again and again in a graph: each reads what was
    written before it, though it may start while that is done."""
    device = torch.device("cuda")
    rows, heads = 4, 64
    case = make_case(device, [64 * 40 + 7 * i for i in range(rows)], heads=heads, pages=300, seed=3)
    width, picks = 8, torch.full_like(case.lengths, 7)
    candidates = 7 * PAGE + (case.lengths - 1) % PAGE + 1
    which = (case.table, None, case.lengths, picks, 1)

    def step(overlap):
        scores = torch.full((rows, 64), float("nan"), device=device)
        physical = torch.full((rows, width), 1 << 30, dtype=torch.int32, device=device)
        logits = torch.full((rows, width * PAGE), float("nan"), device=device)
        q = (case.q.float() * 1.0).to(FP8)  # made just before, as in a model
        kernels.coarse_scores(
            q, case.weights, case.keys, case.scales, *which, scores, "triton", overlap=overlap
        )
        args = (scores, case.lengths, picks, case.table, None, 1, 1, PAGE, physical, None, "triton")
        kernels.pick_pages(*args, overlap=overlap, early=overlap)
        pages = (case.index_k, physical, candidates)
        kernels.refine_logits(q, case.weights, *pages, logits, "triton", overlap=overlap)
        return physical, logits

    step(True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = [step(True) for _ in range(20)]
    truth = step(False)
    for _ in range(50):
        graph.replay()
        for physical, logits in found:
            assert torch.equal(physical, truth[0])
            assert torch.allclose(logits, truth[1], rtol=1e-4, atol=1e-4, equal_nan=True)


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
@pytest.mark.parametrize("itself", [False, True])
def test_positions(device, offsets, itself):
    """``itself``: one row that all share, of pages that stand for themselves."""
    table = torch.randint(0, 5000, (4, 11), dtype=torch.int32)
    given = table.to(device)
    if itself:
        given = torch.arange(11, dtype=torch.int32, device=device).expand(4, -1)
        table = given.cpu()
    positions = torch.randint(-1, 11 * PAGE, (4, 77), dtype=torch.int32)
    add = torch.tensor([0, 3, 1000, 7], dtype=torch.int32) if offsets else None
    got = kernels.map_positions(
        positions.to(device), given, None if add is None else add.to(device), "triton"
    )
    assert (given.stride(0) == 0) == itself
    for row in range(4):
        for column in range(77):
            p = int(positions[row, column])
            want = (
                -1
                if p < 0
                else int(table[row, p // PAGE]) * PAGE + p % PAGE + (int(add[row]) if offsets else 0)
            )
            assert int(got[row, column]) == want
