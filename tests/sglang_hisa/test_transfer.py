"""Planning an extend step makes no copy that waits for the GPU."""

import pytest
import torch

from sglang_hisa.budget import Rule
from sglang_hisa.config import from_mapping
from sglang_hisa.plan import Rows, Setup, make_prefill_plan
from sglang_hisa.segments import of_request
from sglang_hisa.transfer import to_device
from tests.sglang_hisa.test_indexer import CpuKernels


def test_on_a_cpu_nothing_is_pinned():
    values = torch.arange(7)
    assert to_device(values, torch.device("cpu")) is values


@pytest.mark.gpu
def test_a_prefill_plan_waits_for_nothing():
    """Two requests of odd starts, so that rows move, with different budgets: every copy that a plan makes."""
    device, rule = torch.device("cuda"), Rule(4, 0, 64)
    first, second = of_request(0, 8191, 16382, rule, 99999, 0), of_request(8191, 511, 9001, rule, 9001, 300)
    segments = [*first, *second]
    lengths = torch.cat((torch.arange(8192, 16383), torch.arange(8491, 9002))).int().to(device)
    table = torch.arange(2 * 256, dtype=torch.int32, device=device).view(2, 256)
    owner = torch.tensor([0] * 8191 + [1] * 511, dtype=torch.int32, device=device)
    setup = Setup(from_mapping({}), CpuKernels(False), "triton")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows = Rows.of_segments(lengths, table, owner, segments)
        plan = make_prefill_plan(rows, [16382, 9001], setup, "deepgemm", segments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert plan.order is not None and plan.gathered is not None
    assert torch.equal(rows.lengths[plan.order][plan.back], rows.lengths)
