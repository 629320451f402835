"""A decode step's plan and its counts are a launch each: PyTorch starts nothing for them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sglang_hisa import kernels
from sglang_hisa.config import from_mapping
from sglang_hisa.counts import RowCounts
from sglang_hisa.plan import Rows, Setup, make_decode_plan
from tests.sglang_hisa.test_indexer import CpuKernels

FREE = {"aten::empty", "aten::select", "aten::slice", "aten::unsqueeze"}
"""Memory and views: no kernel on a GPU."""


class Launches(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name not in FREE:
            self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))


class Planners(CpuKernels):
    """Stock's own planners, which are launches of theirs."""

    def __init__(self, seen):
        super().__init__(True)
        self.seen = seen

    def schedule(self, lengths_2d):
        self.seen.append("schedule")

    def topk_plan(self, lengths):
        self.seen.append("top-k plan")


def launches(found, backend, refine):
    lengths = torch.tensor([90_000, 1, 70, 33_000], dtype=torch.int32)
    table = torch.zeros(4, 1500, dtype=torch.int32)
    counts = RowCounts()
    counts.allocate(lengths.device, backend)
    setup = Setup(from_mapping({}), Planners(found.seen), backend)
    with found:
        plan = make_decode_plan(Rows(lengths, table, None, 96_000, 512, 0, 512), setup, refine, seals=True)
        counts.add("decode", lengths, plan.of_rows("candidates"), 1)
    return found.seen


@pytest.mark.parametrize(
    "refine,planners", [("deepgemm", ["schedule", "top-k plan"]), ("triton", ["top-k plan"])]
)
def test_a_decode_steps_plan_is_two_launches_of_ours(monkeypatch, refine, planners):
    """The count comes last: a first layer's kernel may read the plan before its predecessor has ended."""
    found = Launches()

    def plan_rows(lengths, *rest):
        found.seen.append("plan")
        return lengths, lengths

    assert len(launches(Launches(), "torch", refine)) == 21 + len(planners), "PyTorch's form, for comparison"
    monkeypatch.setattr(kernels, "plan_rows", plan_rows)
    monkeypatch.setattr(kernels, "count_rows", lambda *args: found.seen.append("count"))
    assert launches(found, "triton", refine) == ["plan", *planners, "count"]
