"""The check of small prefill chunks: its rule, and what it calls the same."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sglang_hisa.budget import make_rule
from sglang_hisa.config import from_mapping
from sglang_hisa.kernels import reference
from sglang_hisa.launch.acceptance import chunks
from sglang_hisa.launch.acceptance.case_run import Machine
from sglang_hisa.launch.acceptance.cases import CASES, PREFILL_GRAPH, Case
from sglang_hisa.launch.acceptance.record import Facts, KeptReceipt

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests" / "plugins" / "steps"))
from hisa_steps import positions  # noqa: E402


@pytest.mark.parametrize("budgets", [chunks.CPU, chunks.GPU])
def test_the_expected_share_is_that_of_the_plans(budgets):
    """Up to the even cut of the dense end and the second row of a pair: less than a hundredth."""
    config = from_mapping(budgets.config())
    rule = make_rule(config, "prefill", 64, 0, 0)
    lengths = [budgets.prefill * 3 + 17, budgets.prefill - 5, budgets.prefill * 5 + 1, 63]
    chunk, topk = 48, 100  # the indexer is called from the third chunk on, and never for a prompt of 63
    looked = seen = 0
    for length in lengths:
        contexts = torch.arange(1, length + 1, dtype=torch.int32)
        _, candidates = reference.plan_rows(contexts, rule.blocks, rule.share, rule.block)
        dense = contexts > length - budgets.tail
        called = contexts > (96 if length > topk else length)
        looked += int(torch.where(dense, contexts, candidates)[called].sum())
        seen += int(contexts[called].sum())
    assert budgets.expected_share(lengths, chunk, topk) == pytest.approx(looked / seen, rel=1e-9)
    assert looked < 0.9 * seen, "else nothing is pruned and the share says nothing"


def calls(*choices, rows=2):
    lines = [chunks.Call(layer, rows, context=0, candidates=0) for layer in range(len(choices))]
    return chunks.Calls(lines, [np.array(one, dtype=np.int32) for one in choices])


def test_choices_in_common():
    one = calls([[-1, 1, 2], [3, 4, 5]], [[0, 1, 2], [3, 4, 5]])
    other = calls([[-1, 1, 2], [3, 4, 5]], [[0, 1, 9], [3, 4, 8]])
    assert chunks.common(one, one) == {0: 1.0, 1: 1.0}
    assert chunks.common(one, other) == {0: 1.0, 1: pytest.approx(4 / 6)}
    with pytest.raises(ValueError, match="not of the same rows"):
        chunks.common(one, calls([[1, 2, 3], [4, 5, 6]], rows=2))


def test_calls_are_read_as_they_were_told(tmp_path):
    with (tmp_path / "0.npy").open("ab") as file:
        for width in (3, 5):
            np.save(file, np.full((2, width), width, dtype=np.int32))
    told = [{"layer": 0, "rows": 2, "candidates": 30, "context": 40}]
    told.append({"layer": 1, "rows": 2, "candidates": 10, "context": 60, "mode": "extend"})
    (tmp_path / "0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    found = chunks.read_calls(tmp_path, 0)
    assert [one.shape for one in found.choices] == [(2, 3), (2, 5)] and found.share() == 0.4


def test_slots_become_positions_of_the_request():
    """Tables with stale tails, a page that two requests share, a row of fewer tokens than the other."""
    table = np.array([[7, 3, 9, 7], [3, 8, 7, 3]], dtype=np.int32)
    slots = np.array([[7 * 64 + 5, 9 * 64 + 1, 3 * 64], [8 * 64 + 63, -1, 3 * 64 + 2]], dtype=np.int32)
    found = positions(slots, table, np.array([64 * 2 + 2, 64 + 64], dtype=np.int32))
    assert found.tolist() == [[5, 64, 129], [-1, 2, 127]]


def test_only_these_cases_have_sglangs_default_prefill_graphs(tmp_path):
    machine = Machine(False, {}, tmp_path, tmp_path, print)
    default = machine.flags(chunks._case(chunks.GPU, 1024), tmp_path)
    assert PREFILL_GRAPH not in default and not any("disable" in flag for flag in default)
    others = {name for name, case in CASES.items() if PREFILL_GRAPH not in machine.flags(case, tmp_path)}
    assert not others
    assert PREFILL_GRAPH in machine.flags(Case("any"), tmp_path)


def test_decode_rows_beside_a_prefill_have_the_decode_budget():
    def facts(share, steps, extends=0, most=None):
        rank = KeptReceipt(hisa_steps={"decode": steps}, candidate_share={"decode": share})
        return Facts(ranks=(rank,), decode_rows_as_extend=extends, most_candidates_of_a_decode_row=most)

    def problems(*given):
        return chunks.decode_problems(facts(*given), 4096, 11500)

    assert problems(0.35, 49) == problems(0.35, 0, 7, 4096) == []
    assert "no decode row" in problems(0.35, 0)[0]
    assert "more than the decode budget" in problems(0.71, 49)[0]
    assert "more candidates" in problems(0.35, 0, 7, 8192)[0]
    assert "None of their context" in problems(None, 49)[0]
