"""The frontier benchmark without a GPU: every kind of point chooses right, and an error costs one point."""

import time
from dataclasses import asdict

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.launch.bench import frontier
from sglang_hisa.launch.bench.cases import Cache
from sglang_hisa.launch.bench.routed import Layer, Point
from sglang_hisa.patches.cpu import mqa
from sglang_hisa.summaries import LayerSummaries
from tests.kernels.conftest import make_case
from tests.sglang_hisa.test_indexer import TOPK, CpuKernels

CONTEXT, ROWS, HEADS = PAGE * 12, 64, 64


class FlatKernels(CpuKernels):
    """Stock kernels of the CPU stand-ins, DeepGEMM's flat ones too."""

    def flat_logits(self, q, keys, scales, weights, starts, ends, columns):
        return mqa.flat_logits(q, (keys, scales), weights, starts, ends, max_seqlen_k=columns)


def timer(arms, rounds):
    """Every arm once, by the clock."""
    found = {}
    for name, work in arms.items():
        begin = time.perf_counter()
        work()
        found[name] = (1e6 * (time.perf_counter() - begin),) * 3
    return found


@pytest.fixture(scope="module")
def bench():
    case = make_case(torch.device("cpu"), [64], heads=4, pages=60, seed=3)
    cache = Cache(LayerSummaries(case.index_k, case.keys, case.scales), 60)
    return frontier.Bench(cache, CONTEXT, ROWS, HEADS, None, FlatKernels(True), timer)


POINTS = [
    Point(6 * PAGE, 64, 2, refine="deepgemm"),
    Point(6 * PAGE, 32, 2, refine="deepgemm"),
    Point(6 * PAGE, 32, 4, refine="deepgemm"),
    Point(6 * PAGE, 16, 8),
    Point(6 * PAGE, 8, 16, 128),
    Point(6 * PAGE, 16, 8, coarse_heads=32),
    Point(CONTEXT, 16, 8),
    Point(6 * PAGE, 32, 4, workspace_mb=0),
]


def test_every_kind_of_point_chooses_right_and_is_timed(bench):
    """``check_rows`` stands in each of them."""
    rows = bench.measure(POINTS, 1)
    assert [row.error for row in rows] == [None] * len(POINTS)
    for point, row in zip(POINTS, rows):
        assert row.us > 0 and asdict(point).items() <= asdict(row).items()
        whole = point.tokens == CONTEXT
        want = ["route"] * (point.heads < HEADS) + ["gather", "coarse", "pick"] * (not whole)
        assert list(row.stage_us) == [*want, "refine", "topk"]
    assert len(bench.layer(POINTS[-1]).parts) == ROWS // 32, "a chunk for each 32 rows"


def test_a_wrong_choice_is_an_error(bench, monkeypatch):
    """Tokens scored by other heads than those of the largest weights; the other point is still measured."""

    def smallest(layer, heads):
        if not heads or heads >= HEADS:
            return layer.q, layer.weights
        at = layer.weights.abs().topk(heads, dim=1, largest=False).indices
        q = layer.q.view(torch.uint8).gather(1, at[:, :, None].expand(-1, -1, 128))
        return q.view(torch.float8_e4m3fn), layer.weights.gather(1, at)

    right = Layer.route
    calls = []

    def route(layer, heads):
        calls.append(heads)
        return (smallest if len(calls) % 2 == 0 else right)(layer, heads)  # the check asks first

    monkeypatch.setattr(Layer, "route", route)
    wrong, fine = bench.measure([Point(6 * PAGE, 16, 8), Point(6 * PAGE, 64, 2)], 1)
    assert "a better token was left out" in wrong.error and wrong.us is None
    assert fine.us > 0


def test_a_point_that_fails_is_recorded_and_the_others_go_on(bench):
    rows = bench.measure([Point(CONTEXT, 32, 1, refine="deepgemm"), Point(6 * PAGE, 12, 8), POINTS[3]], 1)
    assert "all tokens with DeepGEMM" in rows[0].error and "power of two" in rows[1].error
    assert rows[2].us > 0
    assert all(map(frontier.line, rows))


def test_fewer_heads_and_larger_groups_lower_the_floors(bench):
    floors = [bench.layer(point).floors(1e12, 1e12) for point in (Point(512, 64, 2), Point(512, 16, 8))]
    assert floors[0]["arithmetic"] == pytest.approx(4 * floors[1]["arithmetic"], abs=1)
    assert floors[0]["keys"] == pytest.approx(4 * floors[1]["keys"], abs=1)


@pytest.mark.parametrize("context", [32 * 1024, 128 * 1024])
def test_points_fit_the_shapes_that_kernels_take(context):
    """Whole blocks, groups inside a page, a candidate row of at least top-k tokens; none twice in a batch."""
    found = frontier.batches(context)
    assert {"today", "base", "grid"} <= set(found)
    for points in found.values():
        assert len(set(points)) == len(points)
        for point in points:
            assert point.tokens % point.block == 0 and PAGE % point.group == 0
            assert min(point.tokens, context) >= frontier.TOPK + 2 * point.block
            assert point.refine == "triton" or point.heads in (32, 64)
            assert point.group * point.heads <= 256 or point.group <= 4
    assert TOPK < frontier.TOPK
