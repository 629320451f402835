"""The check that a speed-up needs: right choices pass, also of rows in groups; other choices do not."""

from dataclasses import replace

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.budget import Rule
from sglang_hisa.config import from_mapping
from sglang_hisa.indexer import Output, Queries, select
from sglang_hisa.launch.bench.cases import Asked, check_rows
from sglang_hisa.plan import Rows, Setup, make_prefill_plan
from sglang_hisa.segments import Segment
from sglang_hisa.summaries import LayerSummaries
from tests.kernels.conftest import make_case
from tests.sglang_hisa.test_indexer import TOPK, CpuKernels

CONTEXT, ROWS = 64 * 30, 130


def chosen_and_truth(group):
    """What the rows at the end of one request choose, and the arguments of the check."""
    ends = list(range(CONTEXT - ROWS + 1, CONTEXT + 1))
    case = make_case(torch.device("cpu"), ends, heads=16, mapped=True, seed=7)
    config = from_mapping({"prefill_group": group})
    owner = torch.zeros(ROWS, dtype=torch.int32)
    rows = Rows(case.lengths, case.table, owner, CONTEXT, 5, 0, 5)
    segments = [Segment(0, ROWS, CONTEXT, Rule(5, 0, PAGE))]
    setup = Setup(config, CpuKernels(True), "torch")
    plan = make_prefill_plan(rows, [CONTEXT], setup, "triton", segments)
    layer = LayerSummaries(case.index_k, case.keys, case.scales)
    queries = Queries(case.q, case.weights, layer)
    chosen = select(queries, plan, setup, Output(physical=True))
    asked = Asked(
        table_rows=[0] * ROWS,
        lengths=ends,
        picks=plan.of_rows("picks").tolist(),
        block=PAGE,
        topk=TOPK,
    )
    return chosen, queries, case.table, asked


@pytest.mark.parametrize("group", [1, 2])
def test_right_choices_pass_and_those_of_another_group_do_not(group):
    chosen, queries, table, asked = chosen_and_truth(group)
    rows = [0, 63, 64, ROWS - 1]
    right, other = replace(asked, group=group), replace(asked, group=3 - group)
    check_rows(chosen, queries, table, right, rows)
    with pytest.raises(AssertionError, match="row 0: "):
        check_rows(chosen, queries, table, other, rows)
    chosen[63, 0] = chosen[63, 1]
    with pytest.raises(AssertionError, match="row 63: a slot was taken twice"):
        check_rows(chosen, queries, table, right, rows)
