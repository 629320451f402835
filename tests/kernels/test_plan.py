"""A step's plan and its counts against each row's rule on the host and plain sums."""

import pytest
import torch

from sglang_hisa import kernels
from sglang_hisa.budget import KEEP_EVERYTHING, Rule

BACKENDS = pytest.mark.parametrize("backend", ["triton", "torch"])
ROWS = pytest.mark.parametrize("rows", [0, 1, 7, 255, 256, 257, 777])
RULES = [Rule(128, 0, 64), Rule(40, 13107, 64), Rule(1, 65536, 64), KEEP_EVERYTHING]
SOME = (0, 1, 63, 64, 65, 8191, 8192, 8193, 131_072, 1_048_576, 4095)


def ragged(rows, device, start=3):
    """Lengths that begin ``start`` elements into their buffer, with rows of a graph's padding among them."""
    lengths = [SOME[row % len(SOME)] + row // len(SOME) * (row % 2) for row in range(rows)]
    whole = torch.tensor([-1] * start + lengths + [-1], dtype=torch.int32, device=device)
    return lengths, whole[start:-1]


def expected(lengths, rules, block):
    """(picks, candidates) of each row, from the rule alone."""
    picks = [min(rule.count(n), max(1, -(-n // block))) - 1 for n, rule in zip(lengths, rules)]
    earlier = [max(n - 1, 0) // block for n in lengths]
    return picks, [n - (e - p) * block for n, e, p in zip(lengths, earlier, picks)]


@BACKENDS
@ROWS
@pytest.mark.parametrize("block", [64, 128])
def test_rows_of_one_rule(device, backend, rows, block):
    lengths, given = ragged(rows, device)
    for rule in RULES:
        rule = Rule(rule.blocks, rule.share, block)
        found = kernels.plan_rows(given, rule.blocks, rule.share, block, backend)
        assert all(one.dtype == torch.int32 for one in found)
        assert [one.tolist() for one in found] == [*expected(lengths, [rule] * rows, block)], rule


@BACKENDS
@ROWS
def test_each_row_has_a_rule_of_its_own(device, backend, rows):
    lengths, given = ragged(rows, device, start=1)
    rules = [RULES[row % len(RULES)] for row in range(rows)]
    values = ([rule.blocks for rule in rules], [rule.share for rule in rules])
    blocks, share = (torch.tensor(of, dtype=torch.int32, device=device) for of in values)
    found = kernels.plan_rows(given, blocks, share, 64, backend)
    assert [one.tolist() for one in found] == [*expected(lengths, rules, 64)]


@BACKENDS
@ROWS
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_rows_add_up(device, backend, rows, padding):
    lengths, given = ragged(rows, device)
    candidates = [n - n // 3 for n in lengths]
    scored = torch.tensor(candidates, dtype=torch.int32, device=device)
    sums = torch.tensor([[9, 9, 9], [1, 1 << 40, 2], [9, 9, 9]], device=device)
    kernels.count_rows(given, scored, padding, sums[1], backend)
    real = [(n, c) for n, c in zip(lengths, candidates) if n > padding]
    more = (len(real), sum(n for n, _ in real), sum(c for _, c in real))
    assert sums.tolist() == [[9] * 3, [1 + more[0], (1 << 40) + more[1], 2 + more[2]], [9] * 3]


@BACKENDS
def test_sums_of_a_step_hold_more_than_an_int32(device, backend):
    rows = torch.full((3000,), 1 << 20, dtype=torch.int32, device=device)
    sums = torch.zeros(3, dtype=torch.int64, device=device)
    kernels.count_rows(rows, rows, 1, sums, backend)
    assert sums.tolist() == [3000, 3000 << 20, 3000 << 20]
