"""Where SGLang's deterministic inference is asked for, company must not change a choice."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from sglang_hisa.budget import Rule
from sglang_hisa.config import from_mapping
from sglang_hisa.kernels import tuning
from sglang_hisa.kernels.rank import suits
from sglang_hisa.patches import decode_graphs, deterministic, runtime
from sglang_hisa.plan import refine_kernel


@pytest.fixture
def state(monkeypatch):
    made = runtime.Runtime(from_mapping({"preset": "balanced", "audit": 0.5}), sglang="test", patches=0)
    monkeypatch.setattr(runtime, "_runtime", made)
    yield made
    tuning.use(None)


def test_everything_that_looks_at_the_batch_is_off(state):
    before = asdict(state.config)
    deterministic.settle(state)
    after = asdict(state.config)
    changed = {"prefill_group", "prefill_heads", "stock_decode_graphs"}
    assert {key for key in before if before[key] != after[key]} == changed
    assert after["prefill_group"] == after["prefill_heads"] == 1 and after["stock_decode_graphs"] is False
    assert state.receipt()["deterministic"] is True

    launched = tuning.for_device(torch.device("cpu"))
    assert not suits(1, 32, launched), "one kernel picks the pages of one row and of many"
    gpu = torch.device("cuda")
    tuning.for_device.cache_clear()
    assert {refine_kernel("auto", gpu, 64, rows) for rows in (None, 1, 4, 5)} == {"deepgemm"}


def test_one_graph_serves_every_decode_step(state):
    deterministic.settle(state)
    captured = []
    decode_graphs.around_capture(lambda self, size, *args: captured.append(size), None, 4, "forward")
    assert captured == [4]
    state.decode_rule = Rule(64, 0, 64)
    for lengths in ([77], [77, 200_000]):
        batch = SimpleNamespace(seq_lens_cpu=torch.tensor(lengths))
        assert decode_graphs.around_variant(lambda self, forward_batch: None, None, batch) is None


def test_off_by_default(state):
    assert state.receipt()["deterministic"] is False
    assert suits(1, 32, tuning.for_device(torch.device("cpu")))
