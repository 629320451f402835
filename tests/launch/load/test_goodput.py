"""Goodput, quantiles and the knee against hand-made requests."""

import pytest

from sglang_hisa.launch.load import goodput
from sglang_hisa.launch.load.points import Kept, Request
from tests.launch.load.records import request

GOOD, LATE, STUTTER = request(1.9), request(2.1), request(0.5, itl=0.06)


def kept(*requests: Request, load: float = 1) -> Kept:
    """A load that took 10 s."""
    return Kept(load, 10.0, requests)


def test_a_good_request_meets_every_limit() -> None:
    found = goodput.point(kept(*[GOOD] * 5, *[LATE] * 2, STUTTER), {"ttft": 2, "itl": 0.05})
    assert found.goodput_share == 5 / 8 and found.goodput_s == 5 / 10
    assert found.met == {"ttft": 6 / 8, "itl": 7 / 8}
    assert found.requests_s == 0.8 and found.output_tok_s == 4.0


def test_failed_and_unseen_requests_are_not_good() -> None:
    failed, unseen = request(None, error="boom"), request(None)
    found = goodput.point(kept(GOOD, failed, unseen, GOOD), {"e2e": 1000})
    assert (found.sent, found.failed, found.unseen) == (4, 1, 1)
    assert found.goodput_share == 0.5 and found.met == {"e2e": 0.5}
    assert found.requests_s == 0.3  # the unseen one was answered
    assert found.ttft.p50 == 1.9


def test_a_limit_itself_is_met() -> None:
    assert request(2.0, itl=0.05).meets({"ttft": 2, "itl": 0.05})
    assert not request(2.0001).meets({"ttft": 2})


def test_without_limits_there_is_no_goodput_and_no_knee() -> None:
    stats = goodput.compute([kept(GOOD), kept(LATE, load=2)], {})
    assert [p.goodput_share for p in stats.points] == [None, None] and stats.knee is None


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({1: 10, 2: 9, 4: 8}, 2),  # exactly 0.9 still counts
        ({1: 10, 2: 8, 4: 9, 8: 0}, 4),  # the highest, also behind a worse one
        ({1: 8, 2: 0}, None),
        ({0.5: 10, 1.5: 10}, 1.5),
    ],
)
def test_knee(shares: dict[float, int], expected: float | None) -> None:
    points = [kept(*[GOOD] * good, *[LATE] * (10 - good), load=load) for load, good in shares.items()]
    assert goodput.compute(points, {"ttft": 2.0, "itl": 0.05}).knee == expected


def test_quantile_is_a_measured_value() -> None:
    values = [float(x) for x in range(100, 0, -1)]
    assert [goodput.quantile(values, q) for q in (0.5, 0.9, 0.99)] == [50, 90, 99]
    assert goodput.quantile([3.0, 1.0], 0.99) == 3.0 and goodput.quantile([], 0.5) is None


def test_requests_of_a_benchmark_result() -> None:
    gaps = [0.01] * 98 + [0.5, 0.7]
    result = {
        "errors": ["", "", "Traceback\nboom", ""],
        "ttfts": [0.25, 0.0, 0.0, 0.3],
        "itls": [gaps, [0.1], [], []],
        "output_lens": [101, 4, 0, 1],
        "input_lens": [300] * 4,
        "cached_tokens": [64, 0, 0, 0],
    }
    first, unseen, failed, single = goodput.requests(result)
    assert first.itl == 0.5 and first.tpot == pytest.approx(sum(gaps) / 100)
    assert first.e2e == pytest.approx(0.25 + sum(gaps)) and first.cached == 64
    assert unseen.ttft is unseen.e2e is unseen.error is None
    assert failed.error == "Traceback\nboom" and failed.itl is None
    assert (single.itl, single.tpot, single.e2e) == (0.0, 0.0, 0.3)
