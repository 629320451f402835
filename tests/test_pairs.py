"""Rows put in pairs: each beside its neighbour of the same page, or beside itself."""

import itertools

import torch

from sglang_hisa.pairs import arrange, last_of_each


def test_every_arrangement_of_three_requests():
    for contexts in itertools.product((64, 65, 71), (0, 128, 130), (1, 2)):
        for counts in itertools.product((0, 1, 2, 7), (0, 3), (0, 1)):
            counts = [min(count, context) for count, context in zip(counts, contexts)]
            rows = [
                (request, context - count + i)
                for request, (context, count) in enumerate(zip(contexts, counts))
                for i in range(count)
            ]
            found = arrange(contexts, counts)
            if found is None:
                order = back = torch.arange(len(rows))
            else:
                order, back = found
                assert torch.equal(order[back], torch.arange(len(rows)))
            assert len(order) % 2 == 0 and set(order.tolist()) == set(range(len(rows)))
            for a, b in order.view(-1, 2).tolist():
                assert rows[a][0] == rows[b][0] and rows[a][1] // 2 == rows[b][1] // 2 and a <= b
            twice = [row for row, n in zip(*order.unique(return_counts=True)) if n == 2]
            for row in twice:
                request, position = rows[int(row)]
                assert (request, position ^ 1) not in rows, "only a row without its partner stands twice"
            assert (found is None) == (not twice)


def test_both_rows_of_a_pair_have_its_longer_length():
    lengths = torch.tensor([7, 8, 65, 65, 1, 2], dtype=torch.int32)
    assert last_of_each(lengths).tolist() == [8, 8, 65, 65, 2, 2]
