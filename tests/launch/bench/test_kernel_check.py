"""The check that a speed-up needs: right choices pass, also of rows in groups; other choices do not."""

from dataclasses import fields, replace

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.budget import Rule
from sglang_hisa.config import PRESETS, Config, from_mapping
from sglang_hisa.indexer import Output, Queries, select
from sglang_hisa.launch.bench.cases import Asked, check_rows
from sglang_hisa.launch.bench.kernels import _config
from sglang_hisa.plan import Rows, Setup, make_prefill_plan
from sglang_hisa.segments import Segment
from sglang_hisa.summaries import LayerSummaries
from tests.kernels.conftest import make_case
from tests.sglang_hisa.test_indexer import TOPK, CpuKernels

CONTEXT, ROWS = 64 * 30, 130


def chosen_and_truth(group, heads=1):
    """What the rows at the end of one request choose, and the arguments of the check."""
    ends = list(range(CONTEXT - ROWS + 1, CONTEXT + 1))
    case = make_case(torch.device("cpu"), ends, heads=16, mapped=True, seed=7)
    config = from_mapping({"prefill_group": group, "prefill_heads": heads})
    owner = torch.zeros(ROWS, dtype=torch.int32)
    rows = Rows(case.lengths, case.table, owner, CONTEXT, 5, 0, 5)
    segments = [Segment(0, ROWS, CONTEXT, Rule(5, 0, PAGE, heads=heads))]
    setup = Setup(config, CpuKernels(True), "torch")
    plan = make_prefill_plan(rows, [CONTEXT], setup, "triton", segments, heads=16)
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


def test_no_cell_depends_on_a_preset():
    """`balanced` once brought its quarter of the heads into cells that were named after all of them."""
    presets = [from_mapping({"preset": name}) for name in PRESETS]
    differ = {
        field.name for field in fields(Config) if len({getattr(preset, field.name) for preset in presets}) > 1
    }
    config = _config("L/4", 128, 16, 700, 0.5)
    given = {"prefill_tokens": 8192, "prefill_fraction": 0.25, "decode_tokens": 8192, "decode_fraction": 0.25}
    given |= {"block": 128, "prefill_group": 16, "dense_tail_tokens": 700, "prefill_heads": 0.5}
    assert differ - {"preset"} <= set(given)
    assert {name: getattr(config, name) for name in given} == given
    assert _config("8192", 64).prefill_heads == 1


def test_rows_of_few_heads_are_checked_with_those_heads():
    chosen, queries, table, asked = chosen_and_truth(2, heads=0.25)
    asked = replace(asked, group=2)
    check_rows(chosen, queries, table, replace(asked, routed=best_heads(queries, 4)), [0, 65, ROWS - 1])
    with pytest.raises(AssertionError, match="a better token was left out"):
        check_rows(chosen, queries, table, asked, [0, 65, ROWS - 1])


def best_heads(queries, kept):
    """The ``kept`` heads of each row with the largest weights, either sign, by sorting."""
    order = queries.weights.abs().argsort(dim=1, descending=True)[:, :kept].sort(dim=1).values
    q = queries.q.float().gather(1, order[..., None].expand(-1, -1, queries.q.shape[2]))
    return replace(queries, q=q.to(queries.q.dtype), weights=queries.weights.gather(1, order))
