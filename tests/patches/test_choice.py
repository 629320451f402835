"""What the hooks return: where no row is padded the choice itself, since a copy is a launch in each layer."""

from types import SimpleNamespace

import pytest
import torch

from sglang_hisa.config import from_mapping
from sglang_hisa.patches import indexer, runtime
from sglang_hisa.patches.steps import Step
from sglang_hisa.plan import Setup

ROWS, TOPK = 2, 4


@pytest.fixture
def given(monkeypatch):
    """What ``select`` was given to fill: None, or a tensor; it chooses 7 for the two real rows."""
    seen = []

    def select(queries, plan, setup, output, out=None):
        assert len(queries.q) == len(queries.weights) == ROWS
        seen.append(out)
        chosen = torch.full((ROWS, TOPK), 7, dtype=torch.int32) if out is None else out
        chosen[:ROWS] = 7
        return chosen

    monkeypatch.setattr(runtime, "_runtime", runtime.Runtime(from_mapping({}), sglang="test", patches=0))
    pool = SimpleNamespace(get_index_k_with_scale_buffer=lambda layer_id: None)
    summaries = SimpleNamespace(layer=lambda layer_id: None, backend="torch")
    plan = SimpleNamespace(rows=SimpleNamespace(lengths=torch.ones(ROWS)))
    monkeypatch.setattr(indexer, "_summaries", lambda layer_id: (summaries, pool))

    def step(state, batch, metadata, stock, *rest):
        return Step(plan, Setup(None, stock, ""), None)

    monkeypatch.setattr(indexer, "_decode_step", step)
    monkeypatch.setattr(indexer, "_prefill_step", step)
    monkeypatch.setattr(indexer, "_count_rows", lambda *args: None)
    monkeypatch.setattr(indexer, "SglangKernels", lambda *args, **how: how)
    monkeypatch.setattr(indexer.paths, "select", select)
    return seen


def asked(rows):
    metadata = SimpleNamespace(get_dsa_extend_len_cpu=lambda: [1] * ROWS, attn_metadata=object())
    layer = SimpleNamespace(index_topk=TOPK)
    return layer, torch.zeros(rows, 1, 128), torch.zeros(rows, 1, 1), metadata


def decode(rows):
    layer, q, weights, metadata = asked(rows)
    return indexer.around_topk_paged(None, layer, SimpleNamespace(), 0, q, weights, metadata)


def prefill(rows, result=None):
    layer, q, weights, metadata = asked(rows)
    return indexer.around_topk_ragged(None, layer, False, SimpleNamespace(), 0, q, weights, metadata, result)


@pytest.mark.parametrize("hook", [decode, prefill])
def test_the_choice_is_returned_as_it_is(given, hook, monkeypatch):
    monkeypatch.setattr(torch, "full", lambda *args, **more: pytest.fail("a fill for nothing"))
    monkeypatch.setattr(torch.nn.functional, "pad", lambda *args, **more: pytest.fail("a copy for nothing"))
    made = torch.empty(ROWS, TOPK, dtype=torch.int32)
    monkeypatch.setattr(indexer.paths, "select", lambda *args, out=None: made if out is None else out)
    assert hook(ROWS) is made


@pytest.mark.parametrize("hook,how", [(decode, {}), (prefill, {"prefill": True})])
def test_deepgemm_is_called_as_stock_does_in_this_phase(given, hook, how, monkeypatch):
    called = []

    def select(queries, plan, setup, output, out=None):
        called.append(setup.stock)
        return queries.q

    monkeypatch.setattr(indexer.paths, "select", select)
    hook(ROWS)
    assert called == [how]


@pytest.mark.parametrize("hook", [decode, prefill])
def test_padded_rows_choose_nothing(given, hook):
    """DP attention pads the queries of a step beyond its rows."""
    chosen = hook(ROWS + 3)
    assert chosen.dtype == torch.int32 and chosen.tolist() == [[7] * TOPK] * ROWS + [[-1] * TOPK] * 3


def test_a_prefill_result_that_sglang_made_is_filled(given):
    result = torch.full((ROWS + 1, TOPK), -1, dtype=torch.int32)
    assert prefill(ROWS + 1, result) is result and given[-1] is result
    assert result.tolist() == [[7] * TOPK] * ROWS + [[-1] * TOPK]
