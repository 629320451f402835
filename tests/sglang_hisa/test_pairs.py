"""Rows put in pairs: each beside its neighbour of the same page, or beside itself."""

import itertools
from typing import NamedTuple

import torch

from sglang_hisa.pairs import arrange, last_of_each, places


class Run(NamedTuple):
    start: int
    count: int
    context: int


def test_every_arrangement_of_three_requests():
    for contexts in itertools.product((64, 65, 71), (0, 128, 130), (1, 2)):
        for counts in itertools.product((0, 1, 2, 7), (0, 3), (0, 1)):
            counts = [min(count, context) for count, context in zip(counts, contexts)]
            if sum(counts):
                check_arrangements(contexts, counts)


def check_arrangements(contexts, counts):
    rows = [
        (request, context - count + i)
        for request, (context, count) in enumerate(zip(contexts, counts))
        for i in range(count)
    ]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    runs = [Run(*run) for run in zip(starts, counts, contexts) if run[1]]
    for group, turned in itertools.product((1, 2), (False, True)):
        given = runs[::-1] if turned else runs
        found = arrange(given, group)
        if found is None:
            order = back = torch.arange(len(rows))
        else:
            order, back = found
            assert torch.equal(order[back], torch.arange(len(rows)))
        assert len(order) == sum(places(run, group) for run in given)
        assert set(order.tolist()) == set(range(len(rows)))
        assert sorted(order.tolist()) == order.tolist() or turned, "runs stand as they are given"
        first = [int(order[sum(places(run, group) for run in given[:i])]) for i in range(len(given))]
        assert first == [run.start for run in given]
        for a, b in order.view(-1, group).tolist() if group == 2 else ():
            assert rows[a][0] == rows[b][0] and rows[a][1] // 2 == rows[b][1] // 2 and a <= b
        twice = [row for row, n in zip(*order.unique(return_counts=True)) if n == 2]
        for row in twice:
            request, position = rows[int(row)]
            assert (request, position ^ 1) not in rows, "only a row without its partner stands twice"
        assert (found is None) == (order.tolist() == list(range(len(rows))))


def test_both_rows_of_a_pair_have_its_longer_length():
    lengths = torch.tensor([7, 8, 65, 65, 1, 2], dtype=torch.int32)
    assert last_of_each(lengths).tolist() == [8, 8, 65, 65, 2, 2]
