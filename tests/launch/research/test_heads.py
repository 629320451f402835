"""What fewer heads, fewer candidates and shared pages keep, offline: against sets made in plain Python."""

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.launch.eval.heads_record import KeptBy
from sglang_hisa.launch.research.head_mass import shares
from sglang_hisa.launch.research.heads import Place, Way, ways
from sglang_hisa.launch.research.recall_heads import table
from sglang_hisa.launch.research.scorers import fp8, token_scores

ROWS, HEADS, CONTEXT, TOPK = 5, 8, PAGE * 11 + 21, 40


@pytest.fixture(scope="module")
def place():
    generator = torch.Generator().manual_seed(5)
    query, weights, key = (
        torch.randn(*s, generator=generator) for s in ((ROWS, HEADS, 128), (ROWS, HEADS), (CONTEXT, 128))
    )
    return Place((fp8(query), weights.abs(), fp8(key)), TOPK)  # of negative ones the best scores are all 0


def chosen_by_hand(place, way):
    """Sets of tokens, row by row."""
    query, weights, key = place.parts
    means = fp8(key[: 10 * PAGE].view(10, PAGE, -1).mean(dim=1))
    pages = token_scores(query, weights, means)
    found = []
    for row in range(ROWS):
        first = row // way.group * way.group
        total = pages[first : first + way.group].sum(dim=0)
        best = {0, *(total[1:].topk(way.tokens // PAGE - 3).indices + 1).tolist()}
        inside = [t for t in range(CONTEXT) if way.tokens >= CONTEXT or t >= 10 * PAGE or t // PAGE in best]
        heads = sorted(range(HEADS), key=lambda h: -abs(float(weights[row, h])))[: way.heads or HEADS]
        score = sum(weights[row, h] * torch.relu(key @ query[row, h]) for h in heads)
        full = token_scores(query[row : row + 1], weights[row : row + 1], key)[0]
        if way.rescored:
            inside = sorted(inside, key=lambda t: -float(score[t]))[: way.rescored]
            score = full
        found.append(set(sorted(inside, key=lambda t: -float(score[t]))[:TOPK]))
    return found


@pytest.mark.parametrize(
    "way",
    [
        Way(6 * PAGE),
        Way(6 * PAGE, 4, 2),
        Way(5 * PAGE, 2, 4),
        Way(CONTEXT, 2),
        Way(CONTEXT, 4, rescored=80),
        Way(6 * PAGE, 2, 2, rescored=80),
    ],
    ids=str,
)
def test_what_a_way_chooses_and_keeps(place, way):
    want = chosen_by_hand(place, way)
    got = [set(row.nonzero().flatten().tolist()) for row in place.chosen(way)]
    assert got == want
    stock = chosen_by_hand(place, Way(CONTEXT))
    shares = [len(a & b) / TOPK for a, b in zip(want, stock)]
    recall, mass = place.kept(way, slice(1, None))
    assert recall == pytest.approx(sum(shares[1:]) / (ROWS - 1))
    assert 0 < mass <= 1 + 1e-6 and mass >= recall - 0.2


def test_all_heads_over_all_tokens_are_stock(place):
    assert place.kept(Way(CONTEXT), slice(None)) == (1.0, pytest.approx(1.0))


def test_heads_by_their_share_of_the_page_scores(place):
    query, weights, _ = place.parts
    for row in range(ROWS):
        shares = [
            abs(float(weights[row, h])) * float(torch.relu(place.summaries @ query[row, h]).sum())
            for h in range(HEADS)
        ]
        assert place.by_page[row].tolist() == pytest.approx(shares, rel=1e-4)


def test_costs_are_shares_of_stock():
    assert Way(8192).arithmetic(8192, 32) == 1 and Way(8192).keys(8192) == 1
    assert Way(2048, 8, 4).arithmetic(8192, 32) == pytest.approx(1 / 16 + 1 / 64)
    assert Way(2048, 8, 4).keys(8192) == 1 / 16
    assert Way(8192, 8, rescored=1024).arithmetic(8192, 32) == pytest.approx(1 / 4 + 1 / 8)


def test_ways_are_distinct_and_leave_something_to_choose():
    found = list(ways(16384, 32, 2048))
    assert len(set(found)) == len(found) > 50
    assert all(way.tokens > 2048 and (way.rescored == 0 or way.rescored < way.tokens) for way in found)
    assert {way.heads for way in found} == {4, 8, 16, 32}


def test_table_is_in_the_order_of_arithmetic():
    base = {"kind": "answer", "group": 1, "router": "weight", "rescored": 0, "coarse_heads": 0, "keys": 1.0}
    base |= {"context": 64, "recall": 0.5, "places": 1}
    rows = [
        KeptBy(**base, tokens=9, heads=2, layer=layer, arithmetic=0.5, mass=0.5 + layer) for layer in (0, 1)
    ]
    rows.append(KeptBy(**base, tokens=5, heads=1, layer=0, arithmetic=0.1, mass=0.9))
    assert [(name.split(" x ")[0], mass) for name, _, _, mass in table(rows)] == [
        ("5", [0.9]),
        ("9", [0.5, 1.5]),
    ]


def test_shares_of_heads_are_those_of_stocks_tokens(place):
    query, weights, key = place.parts
    found = shares(place, slice(1, None))
    routed, most = [0.0] * HEADS, [0.0] * HEADS
    for row in range(1, ROWS):
        tokens = place.stock[row].nonzero().flatten()
        sums = [
            sum(abs(float(weights[row, h])) * max(0.0, float(key[t] @ query[row, h])) for t in tokens)
            for h in range(HEADS)
        ]
        by_weight = sorted(range(HEADS), key=lambda h: -abs(float(weights[row, h])))
        for count in range(HEADS):
            routed[count] += sum(sums[h] for h in by_weight[: count + 1]) / sum(sums) / (ROWS - 1)
            most[count] += sum(sorted(sums)[-count - 1 :]) / sum(sums) / (ROWS - 1)
    assert found[0].tolist() == pytest.approx(routed, rel=1e-4)
    assert found[1].tolist() == pytest.approx(most, rel=1e-4)
    assert found[1, 2] > found[0, 2] + 0.01
