"""Coarse scores and pick against plain PyTorch."""

from dataclasses import replace

import pytest
import torch

from sglang_hisa import PAGE, budget, kernels
from sglang_hisa.kernels.pick import FEW
from sglang_hisa.kernels.tuning import DEFAULT
from tests.kernels.conftest import make_case

SEARCH = replace(DEFAULT, rank_pairs=0)
COUNT = replace(DEFAULT, rank_pairs=1 << 40, rank_tile=32)  # few programs, for the interpreter's sake
COUNT_SMALL = replace(COUNT, rank_tile=4, rank_chunk=16, coarse_pages=32)
WAYS = pytest.mark.parametrize("tuning", [SEARCH, COUNT], ids=["search", "count"])
"""A row's threshold searched by one program, and its blocks ranked by many."""
WAYS_OF_FEW = pytest.mark.parametrize(
    "tuning", [SEARCH, COUNT, COUNT_SMALL], ids=["search", "count", "chunks"]
)

RAGGED = [0, 1, 63, 64, 65, 64 * 9 + 1, 64 * 20, 64 * 37 + 13, 64 * 33 - 1]


def plan(case, tokens, per_block):
    rule = budget.Rule(max(2, tokens // (PAGE * per_block)), 0, PAGE * per_block)
    picks, candidates = kernels.plan_rows(case.lengths, rule.blocks, rule.share, rule.block, "torch")
    longest = int(case.lengths.max())
    return picks, candidates, rule.width(longest), max(1, -(-longest // rule.block) - 1)


def poisoned(case, columns, width):
    rows, device = case.q.shape[0], case.q.device
    scores = torch.full((rows, columns), float("nan"), device=device)
    tables = [torch.full((rows, width), -7, dtype=torch.int32, device=device) for _ in range(2)]
    return scores, *tables


def overlaps(device):
    """Both ways to launch the kernels; the interpreter has one."""
    return (False, True) if device.type == "cuda" else (False,)


def run(case, picks, per_block, columns, width, backend, sink=1, local=PAGE, overlap=False, tuning=None):
    scores, physical, logical = poisoned(case, columns, width)
    args = (case.table, case.table_rows, case.lengths, picks, per_block)
    summaries = (case.keys, case.scales)
    kernels.coarse_scores(
        case.q, case.weights, *summaries, *args, scores, backend, overlap=overlap, tuning=tuning
    )
    kernels.pick_pages(
        scores,
        case.lengths,
        picks,
        case.table,
        case.table_rows,
        per_block,
        sink,
        local,
        physical,
        logical,
        backend,
        overlap,
        early=overlap,
        tuning=tuning,
    )
    return scores, physical, logical


def same_choice(case, picks, per_block, ours, truth):
    """Candidates agree but for blocks whose scores tie up to rounding."""
    block = per_block * PAGE
    for row, length in enumerate(case.lengths.tolist()):
        mine, want = ours[2][row].tolist(), truth[2][row].tolist()
        if mine == want:
            continue
        earlier = (length - 1) // block
        score = truth[0][row, :earlier]
        near = 1e-3 * float(score.abs().max())
        cut = float(score.sort(descending=True).values[int(picks[row]) - 1])
        for page in set(mine) ^ set(want):
            assert abs(float(score[page // per_block]) - cut) <= near, (row, page)


@pytest.mark.parametrize("mapped", [False, True], ids=["own", "mapped"])
@pytest.mark.parametrize("per_block", [1, 2, 4])
@pytest.mark.parametrize("heads", [4, 32, 64])
@WAYS_OF_FEW
def test_scores_and_choice(device, heads, per_block, mapped, tuning):
    case = make_case(device, RAGGED, heads=heads, mapped=mapped, seed=heads + per_block)
    picks, _, width, columns = plan(case, 640, per_block)
    truth = run(case, picks, per_block, columns, width, "torch")
    scored = ~truth[0].isnan()
    for overlap in overlaps(device):
        ours = run(case, picks, per_block, columns, width, "triton", overlap=overlap, tuning=tuning)
        assert torch.equal(scored, ~ours[0].isnan()), "a score was written outside, or not written"
        difference = (ours[0] - truth[0])[scored].abs().max()
        # Hopper's fp8 tensor cores add up with fewer bits than fp32.
        assert difference <= 1e-3 * truth[0][scored].abs().max()
        same_choice(case, picks, per_block, [x.cpu() for x in ours], [x.cpu() for x in truth])


@pytest.mark.parametrize("sink,local", [(1, 64), (3, 64), (1, 333)])
@WAYS_OF_FEW
def test_forced_blocks_and_order(device, sink, local, tuning):
    case = make_case(device, RAGGED, heads=16, seed=3)
    picks, candidates, width, columns = plan(case, 12 * PAGE, 1)
    found = run(case, picks, 1, columns, width, "triton", sink, local, tuning=tuning)
    _, physical, logical = found
    for row, length in enumerate(case.lengths.tolist()):
        pages = -(-int(candidates[row]) // PAGE)
        kept = logical[row, :pages].tolist()
        assert len(kept) == len(set(kept)), "pages must be distinct"
        if tuning is SEARCH or int(picks[row]) >= (length - 1) // PAGE:
            assert kept == sorted(kept), "the search leaves pages ascending, and so does a row that keeps all"
        if not length:
            assert pages == 0
            continue
        last = (length - 1) // PAGE
        assert kept[-1] == last, "the row's own page comes last"
        first_local = max(max(length - local, 0) // PAGE, min(sink, last))
        assert kept[:sink] == list(range(min(sink, last + 1))), "sink pages lead"
        assert kept[first_local - last - 1 :] == list(range(first_local, last + 1)), "local pages end the row"
        assert set(range(min(sink, last))) <= set(kept)
        assert set(range(max(length - local, 0) // PAGE, last + 1)) <= set(kept)
        assert physical[row, :pages].tolist() == case.table[row, kept].tolist()
        assert (physical[row, pages:] == 0).all() and (logical[row, pages:] == 0).all()
        tail = length - last * PAGE
        assert int(candidates[row]) == (pages - 1) * PAGE + tail


TIES = [(1, 1), (17, 3), (100, 99), (1000, 128), (3000, 700)]


@pytest.mark.parametrize(
    "count,keep,tuning",
    [(*one, way) for one in TIES for way in (SEARCH, COUNT)] + [(*one, COUNT_SMALL) for one in TIES[:3]],
)
def test_ties_go_to_the_earlier_block(device, count, keep, tuning):
    """Scores of few distinct values, both infinities among them, against a stable sort."""
    generator = torch.Generator().manual_seed(count)
    length = (count + 1) * PAGE
    values = torch.tensor([float("-inf"), -2.5, -0.0, 0.0, 1.5, 3e38, float("inf")])
    scores = values[torch.randint(0, 7, (2, count), generator=generator)].to(device)
    table = torch.arange(count + 1, dtype=torch.int32, device=device).repeat(2, 1)
    lengths = torch.tensor([length, length], dtype=torch.int32, device=device)
    picks = torch.tensor([keep, max(1, keep - 1)], dtype=torch.int32, device=device)
    physical = torch.full((2, keep + 1), -7, dtype=torch.int32, device=device)
    args = (scores, lengths, picks, table, None, 1, 0, 0, physical, None, "triton")
    kernels.pick_pages(*args, tuning=tuning)
    for row in range(2):
        # -0.0 sorts below 0.0 in the kernel's bit order; make the reference agree.
        key = scores[row].cpu().double()
        key[(key == 0) & torch.signbit(scores[row].cpu())] = -1e-30
        want = torch.sort(key, descending=True, stable=True).indices[: int(picks[row])]
        if tuning is SEARCH:
            want = want.sort().values
        assert physical[row, : int(picks[row])].tolist() == want.tolist()
        assert int(physical[row, int(picks[row])]) == count


@WAYS
def test_a_score_that_is_no_number_displaces_no_block_that_is_always_kept(device, tuning):
    """Every block's score but three is CUDA's NaN, and as many blocks are kept as were asked for."""
    count, keep, local = 77, 20, 3 * PAGE
    scores = torch.full((2, count), 0x7FFFFFFF, dtype=torch.int32, device=device).view(torch.float32)
    scores[:, 5:8] = 1.0
    lengths = torch.full((2,), (count + 1) * PAGE, dtype=torch.int32, device=device)
    picks = torch.full_like(lengths, keep)
    table = torch.arange(count + 1, dtype=torch.int32, device=device).repeat(2, 1)
    for backend in ("triton", "torch"):
        physical = torch.full((2, keep + 1), -7, dtype=torch.int32, device=device)
        args = (scores, lengths, picks, table, None, 1, 2, local, physical, None, backend)
        kernels.pick_pages(*args, tuning=tuning)
        for row in physical.tolist():
            assert len(set(row)) == keep + 1 and set(row) >= {0, 1, count - 2, count - 1, count}, backend


@pytest.mark.parametrize("per_block", [1, 2])
@pytest.mark.parametrize("rows,group", [(2, 2), (7, 2), (12, 2), (12, 4), (23, 8), (9, 8)])
def test_groups_keep_the_best_sums(device, rows, group, per_block):
    """Rows with the pages of their summed scores; a last group of fewer rows; nothing else is written."""
    generator = torch.Generator().manual_seed(rows)
    count, keep = 37, 9
    length = (count * per_block + per_block - 1) * PAGE + 13
    lengths = torch.full((rows,), length, dtype=torch.int32)
    short = slice(2 * group, 3 * group)
    lengths[short] = 3 * per_block * PAGE + 1  # keeps everything
    picks = torch.where(lengths == length, keep, 3).int()
    scores = torch.randn((rows, count), generator=generator)
    scores[short] = float("nan")  # such a row is not scored
    table = torch.randint(1, 999, (2, -(-length // PAGE)), generator=generator).int()
    which = (torch.arange(rows) // group % 2).int()
    width = (keep + 1) * per_block
    on = [x.to(device) for x in (scores, lengths, picks, table, which)]
    found = []
    for backend in ("triton", "torch"):
        tables = [torch.full((rows + 1, width), -7, dtype=torch.int32, device=device) for _ in range(2)]
        outs = [t[:rows] for t in tables]
        kernels.pick_pages(*on, per_block, 1, PAGE, *outs, backend, group=group)
        assert all((t[rows] == -7).all() for t in tables)
        found.append([t[:rows].cpu() for t in tables])
    for ours, truth in zip(*found):
        assert torch.equal(ours, truth)
    for row in range(0, rows, group):
        together = scores[row : row + group]
        want = set(range(3))
        if lengths[row] == length:
            best = together.sum(dim=0)
            best[0] = best[(length - PAGE) // (PAGE * per_block) :] = float("inf")
            want = set(best.topk(keep).indices.tolist())
        for member in range(len(together)):
            pages = found[0][1][row + member, : len(want) * per_block]
            assert set((pages // per_block).tolist()) == want, (row, member)


@WAYS
def test_short_rows_of_a_long_graph(device, tuning):
    """Rows on both sides of each branch of the kernel, in one call whose bound is the longest."""
    earlier = [5, 900, FEW, FEW + 1, 2 * FEW, 2 * FEW + 1, 2499]
    scores = torch.randn((len(earlier), max(earlier)), generator=torch.Generator().manual_seed(4))
    for row, count in enumerate(earlier):
        scores[row, count:] = float("nan")
    table = torch.arange(len(earlier) * 2500, dtype=torch.int32).view(len(earlier), 2500) + 1
    lengths = torch.tensor(earlier, dtype=torch.int32) * PAGE + 17
    picks = torch.tensor([min(count, 130) for count in earlier], dtype=torch.int32)
    which = [x.to(device) for x in (lengths, picks, table)]
    found = []
    for backend in ("triton", "torch"):
        physical = torch.full((len(earlier), 140), -7, dtype=torch.int32, device=device)
        args = (scores.to(device), *which, None, 1, 1, PAGE, physical, None, backend)
        kernels.pick_pages(*args, tuning=tuning)
        found.append(physical.cpu())
    ours, truth = found
    for row, pick in enumerate(picks.tolist()):
        assert set(ours[row, :pick].tolist()) == set(truth[row, :pick].tolist()), row
    assert torch.equal(ours[:, 130:], truth[:, 130:])
    if tuning is SEARCH:
        assert torch.equal(ours, truth)


def test_decode_seals_in_the_coarse_launch(device):
    """Pages completed by the rows' last tokens, and only those, get the summary of the reference."""
    case = make_case(device, [64, 65, 128, 640, 1, 0, 639], heads=16, seed=5)
    picks = torch.full_like(case.lengths, 3)
    done = [int(case.table[0, 0]), int(case.table[2, 1]), int(case.table[3, 9])]
    read = {int(page) for row in (3, 6) for page in case.table[row, :9]}
    assert not read & set(done), "in a server no row reads a page that another one completes"
    which = (case.table, None, case.lengths, picks, 1)
    expected = torch.full((7, 9), float("nan"), device=device)
    kernels.coarse_scores(case.q, case.weights, case.keys, case.scales, *which, expected, "torch")
    for overlap in overlaps(device):
        keys, scales = case.keys.clone(), case.scales.clone()
        keys.view(torch.uint8)[done], scales[done] = 0x5A, float("nan")
        scores = torch.full((7, 9), float("nan"), device=device)
        args = (case.q, case.weights, keys, scales, *which, scores, "triton")
        kernels.coarse_scores(*args, seal_from=case.index_k, overlap=overlap)
        assert torch.equal(keys.view(torch.uint8), case.keys.view(torch.uint8))
        assert torch.equal(scales, case.scales)
        assert torch.allclose(scores, expected, rtol=1e-3, atol=1e-3, equal_nan=True), "scores beside seals"
