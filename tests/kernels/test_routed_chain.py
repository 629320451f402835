"""What only a GPU shows of prefill rows that few heads score: early launches, and addresses beyond 2 GiB."""

import pytest
import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa.groups import last_of_each
from sglang_hisa.kernels.layout import FP8, HEAD_DIM, ROW_BYTES
from tests.kernels.conftest import index_cache, make_case

BASE, PICKS, HEADS = 40 * PAGE, 7, 64


def layers_of(device, rows, group, kept, layers):
    """A step's choice and scores, layer by layer: a function from the backend and the launch to both."""
    lengths = [BASE + 1 + row for row in range(rows)]
    case = make_case(device, lengths, heads=HEADS, pages=300, mapped=True, seed=group)
    which = torch.zeros_like(case.lengths)
    bounds = last_of_each(case.lengths, group)
    picks = torch.full_like(bounds, PICKS)
    candidates = case.lengths - ((bounds - 1) // PAGE - PICKS).int() * PAGE
    blocks = (lengths[-1] - 1) // PAGE
    generator = torch.Generator(device).manual_seed(kept)
    shape = (layers, rows, HEADS)
    queries = torch.randn(*shape, HEAD_DIM, generator=generator, device=device) * 30
    weights = torch.randn(shape, generator=generator, device=device)

    def layer(at, backend, overlap):
        q = queries[at].clamp(-448, 448).to(FP8)  # made just before, as in a model
        few = kernels.route_heads(q, weights[at], kept, backend)
        scores = torch.full((rows, blocks), float("nan"), device=device)
        physical = torch.full((rows, PICKS + 1), 1 << 30, dtype=torch.int32, device=device)
        logits = torch.full((rows, (PICKS + 1) * PAGE), float("nan"), device=device)
        given = {"table": case.table, "table_rows": which, "lengths": bounds, "picks": picks}
        summaries = (case.keys, case.scales)
        # The flat logits of a server are DeepGEMM's: an ordinary launch between the routing and the pick.
        kernels.coarse_scores(
            q, weights[at], *summaries, **given, pages_per_block=1, out=scores, backend=backend
        )
        kernels.pick_pages(
            scores,
            **given,
            pages_per_block=1,
            sink_blocks=1,
            local_tokens=PAGE + group - 1,
            physical=physical,
            logical=None,
            backend=backend,
            overlap=overlap,
            group=group,
        )
        pages = (case.index_k, physical, candidates)
        kernels.refine_logits(*few, *pages, logits, backend, group=group, overlap=overlap)
        return physical, logits

    return layer


def same(found, truth):
    """Choices of pages may differ where sums of scores are nearly equal; logits only where the pages do."""
    equal = (found[0] == truth[0]).all(dim=1)
    assert equal.float().mean() > 0.95
    left, right = found[1][equal], truth[1][equal]
    assert torch.equal(left.isnan(), right.isnan())
    written = ~right.isnan()
    assert (left - right)[written].abs().max() <= 1e-3 * right[written].abs().max()


@pytest.mark.gpu
@pytest.mark.parametrize("group,kept", [(2, 32), (8, 16), (16, 8), (16, 64)])
@pytest.mark.parametrize("rows", [16, 272, 1024])
def test_refine_reads_the_routed_queries_before_the_pick_ends(rows, group, kept):
    """16 rows of 64 heads are scored in parts. Launches are queued: each starts as early as it may."""
    device, layers = torch.device("cuda"), 12
    layer = layers_of(device, rows, group, kept, layers)
    truth = [layer(at, "triton", False) for at in range(layers)]
    same(truth[0], layer(0, "torch", False))
    torch.cuda.synchronize()
    for _ in range(20):
        torch.cuda._sleep(10_000_000)
        found = [layer(at, "triton", True) for at in range(layers)]
        for mine, others in zip(found, truth):
            assert torch.equal(mine[0], others[0])
            assert torch.allclose(mine[1], others[1], rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.gpu
def test_queries_and_pages_beyond_two_gib():
    device, rows = torch.device("cuda"), (1 << 31) // (HEADS * HEAD_DIM) + 3
    q = torch.zeros(rows, HEADS, HEAD_DIM, dtype=torch.uint8, device=device)
    weights = torch.randn(rows, HEADS, device=device)
    q[-2:] = (torch.randn(2, HEADS, HEAD_DIM, device=device) * 30).to(FP8).view(torch.uint8)
    q = q.view(FP8)
    few, of_few = kernels.route_heads(q, weights, 16, "triton")
    want, of_want = kernels.route_heads(q[-2:], weights[-2:], 16, "torch")
    assert torch.equal(few[-2:].view(torch.uint8), want.view(torch.uint8)) and torch.equal(
        of_few[-2:], of_want
    )
    del q, few

    pages, small = (1 << 31) // ROW_BYTES + 9, index_cache(8, device)
    index_k = torch.zeros(pages, ROW_BYTES, dtype=torch.uint8, device=device)
    index_k[-8:] = small
    low = torch.arange(8, dtype=torch.int32, device=device).repeat(2, 1)
    lengths = torch.tensor([8 * PAGE - 1, 8 * PAGE], dtype=torch.int32, device=device)
    found = []
    for keys, table in ((small, low), (index_k, low + pages - 8)):
        found.append(torch.full((2, 8 * PAGE), float("nan"), device=device))
        kernels.refine_logits(want, of_want, keys, table, lengths, found[-1], "triton", group=2)
    assert torch.allclose(*found, rtol=0, atol=0, equal_nan=True)
    assert int(found[0].isnan().sum()) == 1
