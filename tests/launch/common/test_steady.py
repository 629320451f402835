"""Decode at steady state, against timelines whose answer is known by hand."""

import random
from dataclasses import replace

import pytest

from sglang_hisa.launch.common import steady
from sglang_hisa.launch.common.steady import Timeline


def test_only_the_time_in_which_all_decode_counts() -> None:
    """Two requests: one token a tenth of a second from 1.0 to 3.0; one a fifth from 2.0 to 5.0."""
    first = Timeline.of(0.5, 0.5, [0.1] * 20)
    second = Timeline.of(0.75, 1.25, [0.2] * 15)
    assert steady.windows([first, second], 2) == [pytest.approx((2.0, 3.0))]
    found = steady.measure([first, second], 2, output_tokens=5)
    assert found is not None
    assert (found.at_once, found.window_s) == (2, pytest.approx(1.0))
    assert found.tokens in (14, 15, 16)  # 10 and 5, one more or less where rounding moves the edges
    assert found.itl_p50 == pytest.approx(0.1) and found.itl_p99 == pytest.approx(0.2)
    assert found.output_tok_s == pytest.approx(found.tokens) and found.tpot == pytest.approx(2 / found.tokens)
    assert found.requests_s == pytest.approx(found.tokens / 5)
    assert not found.enough and replace(found, tokens=32).enough and not replace(found, tokens=31).enough


def test_what_came_before_and_after_the_window_changes_nothing() -> None:
    """The first request stalls while the second is prefilled; the last one ends alone, and much faster."""
    plain = [Timeline.of(0, 1, [0.125] * 64), Timeline.of(0, 1, [0.125] * 64)]
    stalled = Timeline((*(x / 64 for x in range(9)), *plain[0].tokens))
    alone = Timeline((*plain[1].tokens, *(9 + x / 1000 for x in range(1, 300))))
    wanted = steady.measure(plain, 2, 65)
    assert wanted is not None and wanted.itl_p50 == 0.125 and wanted.tokens == 2 * 64
    assert wanted.window_s == 8 and wanted.output_tok_s == 16
    assert steady.measure([stalled, alone], 2, 65) == wanted


def test_requests_that_never_decode_together_have_no_steady_state() -> None:
    apart = [Timeline.of(0, 1, [0.1] * 5), Timeline.of(2, 1, [0.1] * 5)]
    assert steady.measure(apart, 2, 6) is None
    assert steady.measure(apart, 3, 6) is None
    assert steady.measure([Timeline.of(0, 1, []), Timeline.of(0, 1, [])], 2, 1) is None
    assert steady.measure([], 1, 6) is None
    assert steady.measure(apart, 1, 6) is not None


def test_of_a_benchmarks_result_failed_and_unseen_requests_are_left_out() -> None:
    result = {
        **{"errors": ["", "boom", "", ""], "start_times": [10.0, 10.0, 10.5, 10.0], "duration": 20.0},
        **{"ttfts": [1.0, 0.0, 1.5, 0.0], "itls": [[0.25] * 20, [], [0.5] * 20, []]},
    }
    found = steady.of_result(result, 2, 21)
    assert found is not None and (found.window_s, found.share, found.tokens) == (4.0, 0.2, 16 + 8)
    assert steady.of_result(result, 3, 21) is None


def test_waves_of_requests_have_several_windows() -> None:
    """Two slots: when one answer ends, the next request's prefill leaves the other decoding alone."""
    one = [Timeline.of(0, 1, [0.25] * 8), Timeline.of(3, 1, [0.25] * 8)]  # decode 1 to 3 and 4 to 6
    other = [Timeline.of(0, 1.5, [0.5] * 10)]  # 1.5 to 6.5
    assert steady.windows([*one, *other], 2) == [(1.5, 3.0), (4.0, 6.0)]
    found = steady.measure([*one, *other], 2, 9)
    assert found is not None and found.window_s == 3.5
    assert found.tokens == (6 + 3) + (8 + 4) and found.itl_p50 == 0.25


@pytest.mark.parametrize("chunk", [1, 8])
def test_several_tokens_in_a_chunk_are_several_tokens(chunk: int) -> None:
    """SGLang's benchmark spreads a chunk over its tokens, so a stream by eights has the same steady state."""
    draw = random.Random(chunk)
    requests = [Timeline.of(draw.random(), 0.5, [0.02 * chunk / chunk] * 400) for _ in range(7)]
    found = steady.measure(requests, 7, 401)
    assert found is not None and found.itl_p50 == pytest.approx(0.02)
    assert found.tpot == pytest.approx(0.02, rel=0.01)
