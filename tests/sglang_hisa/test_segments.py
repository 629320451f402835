"""Rows cut where a budget ends: which ones keep everything, and how wide the tables of a step are."""

import itertools

import pytest

from sglang_hisa.budget import KEEP_EVERYTHING, Rule
from sglang_hisa.segments import Segment, in_parts, of_request

RULE = Rule(5, 0, 64)


def test_the_rows_of_a_prompts_last_tokens_keep_everything():
    prompts, tails, stops = (1, 64, 701, 702), (0, 1, 2, 63, 64, 5000), (1, 63, 640, 702)
    for prompt, tail, stop in itertools.product(prompts, tails, stops):
        stop = min(stop, prompt)
        for count in {1, 2, stop // 2, stop} - {0}:
            count = min(count, stop)
            segments = of_request(9, count, stop, RULE, prompt, tail)
            assert segments[0].start == 9 and sum(s.count for s in segments) == count
            rules = []
            for segment in segments:
                assert segment.start == 9 + len(rules) and segment.count > 0
                rules += [segment.rule] * segment.count
                assert segment.context == stop - count + len(rules), "what the last of its rows sees"
            for length, rule in zip(range(stop - count + 1, stop + 1), rules):
                last = length > prompt - tail and tail > 0
                pair = length + length % 2 > prompt - tail and tail > 0
                assert (rule is KEEP_EVERYTHING) == pair and rule in (RULE, KEEP_EVERYTHING)
                assert pair or not last


@pytest.mark.parametrize("group", [1, 2, 8])
def test_rows_within_the_budget_are_apart_from_those_that_few_heads_score(group):
    """What fits the budget keeps all heads, whatever share of the context is a candidate beyond it."""
    rule = Rule(5, 1 << 16, 64, heads=0.25)
    assert rule.fits(320) and not rule.fits(321) and rule.width(640) == 10, "all pages, fewer heads"
    for prompt, tail, stop, count in itertools.product(
        (700, 5000), (0, 30), (319, 320, 321, 640), (1, 64, 319)
    ):
        segments = of_request(3, count, stop, rule, prompt, tail, group)
        lengths = iter(range(stop - count + 1, stop + 1))
        for segment, follows in itertools.zip_longest(segments, segments[1:]):
            mine = list(itertools.islice(lengths, segment.count))
            assert segment.context == mine[-1] and (
                follows is None or follows.start == segment.start + segment.count
            )
            assert {length <= 320 or segment.rule is KEEP_EVERYTHING for length in mine} == {
                not segment.routed
            }
            assert segment.rule is KEEP_EVERYTHING or {rule.fits(length) for length in mine} == {segment.fits}
            if follows is not None:
                assert mine[-1] % group == 0, "a group is not cut"
        assert next(lengths, None) is None


def test_rows_that_few_heads_score_are_a_part_of_their_own():
    routed, within = (Segment(0, 40, 900, Rule(5, 0, 64, 0.5)), Segment(40, 7, 320, Rule(5, 0, 64, 0.5)))
    decode, long = Segment(47, 1, 900, RULE), Segment(48, 9, 1000, KEEP_EVERYTHING)
    assert in_parts([within, routed, decode, long]) == [[routed], [within, decode], [long]]
    assert routed.routed and not within.routed and not decode.routed


def test_wide_tables_are_apart():
    pruned, short = Segment(0, 40, 900, RULE), Segment(40, 7, 320, RULE)
    ends, long = Segment(47, 9, 300, KEEP_EVERYTHING), Segment(56, 9, 1000, KEEP_EVERYTHING)
    assert pruned.width == 5 and not pruned.fits and short.fits and ends.width == 5 and long.width == 16
    assert in_parts([pruned, long, short, ends]) == [[pruned, short, ends], [long]]
    assert in_parts([pruned, short]) == [[pruned, short]]
    assert in_parts([ends, long, short]) == [[ends, long, short]], "nothing is pruned: nothing is narrow"
