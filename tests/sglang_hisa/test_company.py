"""What a row's choice may depend on besides its own request (docs/design.md): its company changes nothing."""

import pytest
import torch

from sglang_hisa.budget import make_rule
from sglang_hisa.config import from_mapping
from sglang_hisa.indexer import Output, Queries, select
from sglang_hisa.plan import Rows, Setup, make_decode_plan, make_prefill_plan
from sglang_hisa.segments import of_request
from sglang_hisa.summaries import LayerSummaries
from tests.kernels.conftest import make_case
from tests.sglang_hisa.test_indexer import TOPK, CpuKernels

CONTEXT = 64 * 40
"""The last row's local window begins with a page: one token more is a page more."""


@pytest.fixture(scope="module")
def case():
    ends = [CONTEXT - 1, CONTEXT, 64 * 33 + 1, 64 * 33 + 2]
    return make_case(torch.device("cpu"), ends, heads=16, mapped=True, seed=7)


def rule_of(config):
    return make_rule(config, "decode", TOPK, 0, 0)


def chosen(case, config, numbers, *, decode=False):
    """What the rows ``numbers`` of the case choose in one step, each request's rows a segment."""
    index = torch.tensor(numbers)
    lengths = case.lengths[index]
    owners = [number // 2 for number in numbers]
    rule = rule_of(config)
    setup = Setup(config, CpuKernels(True), "torch")
    layer = LayerSummaries(case.index_k, case.keys, case.scales)
    if decode:
        table = case.table[owners]
        longest = int(lengths.max())
        rows = Rows(lengths, table, None, longest, rule.blocks, rule.share, rule.width(longest))
        plan = make_decode_plan(rows, setup, "triton", seals=False)
    else:
        segments = []
        for owner in dict.fromkeys(owners):
            mine = [at for at, other in enumerate(owners) if other == owner]
            context = int(lengths[mine[-1]])
            segments += of_request(mine[0], len(mine), context, rule, context + 999, 0)
        rows = Rows.of_segments(lengths, case.table, torch.tensor(owners, dtype=torch.int32), segments)
        contexts = [CONTEXT, 64 * 33 + 2]
        plan = make_prefill_plan(rows, contexts, setup, "triton", segments)
    queries = Queries(case.q[index], case.weights[index], layer)
    found = select(queries, plan, setup, Output(physical=True))
    return {number: set(row.tolist()) - {-1} for number, row in zip(numbers, found)}


def small(**given):
    """Settings whose rows are pruned at the lengths of the case."""
    return from_mapping({"decode_tokens": 512, "decode_fraction": 0.0, "dense_tail_tokens": 0, **given})


@pytest.mark.parametrize("group", [1, 2])
def test_a_decode_row_chooses_alike_in_every_step(case, group):
    """In a decode step, among other decode rows of an extend step, and beside a prefill in pairs."""
    config = small(prefill_group=group)
    alone = chosen(case, config, [1], decode=True)[1]
    assert len(alone) == TOPK
    assert chosen(case, config, [1, 2], decode=True)[1] == alone
    assert chosen(case, config, [1, 2])[1] == alone, "an extend step of one row a request"
    assert chosen(case, config, [1, 2, 3])[1] == alone, "beside a request whose rows are in pairs"


def test_other_requests_change_no_pair(case):
    config = small()
    together = chosen(case, config, [0, 1, 2, 3])
    assert chosen(case, config, [0, 1]) == {0: together[0], 1: together[1]}
    assert chosen(case, config, [2, 3]) == {2: together[2], 3: together[3]}


def test_a_row_without_its_partner_chooses_by_itself(case):
    """The dependence that pairs bring: the same row, whose partner came in another step."""
    paired, alone = (chosen(case, small(prefill_group=2), numbers)[3] for numbers in ([2, 3], [3]))
    assert paired != alone
    config = small(prefill_group=1)
    assert chosen(case, config, [2, 3])[3] == chosen(case, config, [3])[3] == alone
