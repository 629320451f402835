"""A decode step's plan and its counts are a launch each: PyTorch starts nothing for them."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sglang_hisa import kernels
from sglang_hisa.config import from_mapping
from sglang_hisa.patches import indexer, runtime
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


def launches(monkeypatch, found, backend, refine):
    """What the paged hook launches before the first layer's kernels."""
    lengths = torch.tensor([90_000, 1, 70, 33_000], dtype=torch.int32)
    table = torch.zeros(4, 1500, dtype=torch.int32)
    state = runtime.Runtime(from_mapping({"refine": refine}), sglang="test", patches=0)
    state.rows.allocate(lengths.device, backend)
    monkeypatch.setattr(runtime, "_runtime", state)
    monkeypatch.setattr(indexer, "output_of", lambda *args: None)
    metadata = SimpleNamespace(
        get_seqlens_expanded=lambda: lengths,
        get_seqlens_int32=lambda: lengths,
        get_page_table_64=lambda: table,
    )
    mode = SimpleNamespace(is_decode=lambda: True, is_target_verify=lambda: False)
    mode.is_draft_extend_v2 = mode.is_target_verify
    batch = SimpleNamespace(forward_mode=mode, spec_info=None)
    summaries, q = SimpleNamespace(backend=backend), torch.zeros(4, 1, 128)
    with found:
        indexer._decode_step(state, batch, metadata, Planners(found.seen), summaries, q, 4)
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

    assert len(launches(monkeypatch, Launches(), "torch", refine)) == 21 + len(planners), (
        "PyTorch's form, for comparison"
    )
    monkeypatch.setattr(kernels, "plan_rows", plan_rows)
    monkeypatch.setattr(kernels, "count_rows", lambda *args: found.seen.append("count"))
    assert launches(monkeypatch, found, "triton", refine) == ["plan", *planners, "count"]
