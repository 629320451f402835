"""Rows put in groups: each beside its neighbours of the same page, or beside itself."""

import itertools
from typing import NamedTuple

import torch

from sglang_hisa.groups import arrange, last_of_each, places


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
    for group, turned in itertools.product((1, 2, 4, 16), (False, True)):
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
        for together in order.view(-1, group).tolist():
            assert len({(rows[row][0], rows[row][1] // group) for row in together}) == 1
            assert together == sorted(together), "the last row of a group is its longest"
            here = [rows[row] for row in dict.fromkeys(together)]
            request, position = here[0][0], here[0][1] // group * group
            assert here == [
                (request, at) for at in range(position, position + group) if (request, at) in rows
            ]
        assert (found is None) == (order.tolist() == list(range(len(rows))))


def test_all_rows_of_a_group_have_its_longest_length():
    lengths = torch.tensor([7, 8, 65, 65, 1, 2], dtype=torch.int32)
    assert last_of_each(lengths, 2).tolist() == [8, 8, 65, 65, 2, 2]
    assert last_of_each(torch.tensor([5, 6, 7, 8, 1, 1, 2, 3]), 4).tolist() == [8] * 4 + [3] * 4
