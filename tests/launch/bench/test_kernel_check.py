"""The check that a speed-up needs: right choices pass, also of rows in pairs; other choices do not."""

import pytest
import torch

from sglang_hisa.budget import Rule
from sglang_hisa.config import PAGE, from_mapping
from sglang_hisa.indexer import Output, Rows, make_prefill_plan, select
from sglang_hisa.launch.bench.cases import check_rows
from sglang_hisa.segments import Segment
from sglang_hisa.summaries import LayerSummaries
from tests.kernels.conftest import make_case
from tests.sglang_hisa.test_indexer import TOPK, Host

CONTEXT, ROWS = 64 * 30, 130


def chosen_and_truth(group):
    """What the rows at the end of one request choose, and the arguments of the check."""
    ends = list(range(CONTEXT - ROWS + 1, CONTEXT + 1))
    case = make_case(torch.device("cpu"), ends, heads=16, mapped=True, seed=7)
    config = from_mapping({"prefill_group": group})
    owner = torch.zeros(ROWS, dtype=torch.int32)
    rows = Rows(case.lengths, case.table, owner, CONTEXT, 5, 0, 5)
    segments = [Segment(0, ROWS, CONTEXT, Rule(5, 0, PAGE))]
    plan = make_prefill_plan(rows, [CONTEXT], config, Host(True), "triton", segments)
    layer = LayerSummaries(case.index_k, case.keys, case.scales)
    args = (case.q, case.weights, layer)
    chosen = select(*args, plan, config, Host(True), Output(physical=True), "torch")
    picks = plan.of_rows("picks").tolist()
    return chosen, (*args, case.table, [0] * ROWS, ends, picks, PAGE, [0, 63, 64, ROWS - 1], TOPK)


@pytest.mark.parametrize("group", [1, 2])
def test_right_choices_pass_and_those_of_another_group_do_not(group):
    chosen, truth = chosen_and_truth(group)
    check_rows(chosen, *truth, group)
    with pytest.raises(AssertionError, match="row 0: "):
        check_rows(chosen, *truth, 3 - group)
    chosen[63, 0] = chosen[63, 1]
    with pytest.raises(AssertionError, match="row 63: a slot was taken twice"):
        check_rows(chosen, *truth, group)
