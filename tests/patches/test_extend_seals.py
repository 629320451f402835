"""Extend steps left to stock DSA seal in their first layer, and in all layers after the last one's store."""

from types import SimpleNamespace

import pytest
import torch

from sglang_hisa.config import from_mapping
from sglang_hisa.counts import StockReason
from sglang_hisa.patches import indexer, runtime
from sglang_hisa.patches.steps import Step
from sglang_hisa.summaries import PageSummaries
from tests.kernels.conftest import index_cache
from tests.plugins.oracle.hisa_rebuild import stale_pages

SLOTS = torch.tensor([63, 5, 5 * 64 + 63, 0])
SEALED = [0, 5]
WAITING = [StockReason.PREFILL_OFF, StockReason.PREFILL_END_OF_PROMPTS, StockReason.PREFILL_FITS]
LENGTHS = torch.tensor([64, 6, 64, 1], dtype=torch.int32)


@pytest.fixture
def state(monkeypatch):
    made = runtime.Runtime(from_mapping({}), sglang="test", patches=0)
    monkeypatch.setattr(runtime, "_runtime", made)
    made.rows.allocate(torch.device("cpu"), "torch")
    made.layers = {0, 2, 3, 5, 7}
    monkeypatch.setattr(indexer, "SglangKernels", lambda *args, **kwargs: None)
    monkeypatch.setattr(indexer, "_count_rows", lambda *args: None)
    monkeypatch.setattr(indexer.paths, "select", lambda queries, *args, **kwargs: queries.q[:, 0].int())
    return made


def pool(start=0, draft=False):
    """Layer 1 of it stores nothing, layer 4 belongs to no indexer."""
    buffers = [index_cache(9, torch.device("cpu"), seed=i) for i in range(5)]
    buffers[1] = buffers[1][:0]
    return PageSummaries(buffers, start, "torch", draft=draft)


def extend_step():
    mode = SimpleNamespace(is_decode=lambda: False)
    return SimpleNamespace(forward_mode=mode, spec_info=None, out_cache_loc=SLOTS)


HISA = Step(plan=SimpleNamespace(rows=SimpleNamespace(lengths=LENGTHS)), setup=None, output=None)


class Forwards:
    """Runs layers of a pool and notes what is stale in the pool after each store."""

    def __init__(self, monkeypatch, summaries):
        self.patch, self.summaries = monkeypatch, summaries
        served = SimpleNamespace(get_index_k_with_scale_buffer=lambda layer_id: None)
        monkeypatch.setattr(indexer, "_summaries", lambda layer_id: (summaries, served))

    def run(self, batch, step, layers):
        """What each layer's store sealed, in the first and in the last of ``layers``."""
        self.patch.setattr(indexer, "_prefill_step", lambda *args: step)
        metadata = SimpleNamespace(attn_metadata=object(), get_seqlens_expanded=lambda: LENGTHS)
        seen = []
        for layer_id in layers:
            indexer.after_store(None, None, batch, layer_id, None)
            seen.append([self.sealed(one) for one in (layers[0], layers[-1])])
            args = (None, False, batch, layer_id, torch.zeros(4, 1, 128), torch.zeros(4, 1, 1), metadata)
            chosen = indexer.around_topk_ragged(lambda *args: "stock", *args)
            assert isinstance(chosen, str) == isinstance(step, StockReason)
        return seen

    def sealed(self, layer_id):
        stale = stale_pages(self.summaries, layer_id, torch.arange(9)).tolist()
        return [page for page in range(9) if page not in stale]


@pytest.mark.parametrize("reason", WAITING)
def test_the_last_layer_seals_for_those_between(state, monkeypatch, reason):
    summaries = pool()
    forwards = Forwards(monkeypatch, summaries)
    found = forwards.run(extend_step(), reason, [0, 2, 3])
    assert found == [[SEALED, []], [SEALED, []], [SEALED, SEALED]]
    assert forwards.sealed(2) == forwards.sealed(4) == SEALED, "in all layers that store"


@pytest.mark.parametrize("step", [StockReason.PREFILL_NO_REQUEST, StockReason.PREFILL_CONTEXT_PARALLEL, HISA])
def test_other_steps_seal_in_each_layer(state, monkeypatch, step):
    """A graph's capture is of no request, and what it records serves others; HISA reads what was sealed."""
    forwards = Forwards(monkeypatch, pool())
    forwards.run(extend_step(), step, [0, 2])
    assert forwards.sealed(2) == SEALED and forwards.sealed(3) == [], "the last one had no turn"


def test_a_batch_that_runs_again_starts_anew(state, monkeypatch):
    """As after a warm-up: the first forward was stock DSA's, the second one reads summaries."""
    batch, summaries = extend_step(), pool()
    forwards = Forwards(monkeypatch, summaries)
    forwards.run(batch, StockReason.PREFILL_FITS, [0, 2])
    assert forwards.sealed(2) == [], "layer 3 has not come yet"
    for one, layer in enumerate(summaries.layers):  # other keys are stored
        layer.index_k.copy_(index_cache(9, torch.device("cpu"), seed=10 + one)[: len(layer.index_k)])
    assert forwards.sealed(0) == []
    forwards.run(batch, HISA, [0, 2])
    assert forwards.sealed(0) == forwards.sealed(2) == SEALED


def test_a_later_pools_layers_are_not_those_of_the_forward(state, monkeypatch):
    """A layer of another pool with a higher number, over the same batch."""
    batch = extend_step()
    Forwards(monkeypatch, pool()).run(batch, StockReason.PREFILL_FITS, [0, 2, 3])
    other = Forwards(monkeypatch, pool(start=5))
    other.run(batch, HISA, [5])
    assert other.sealed(5) == SEALED


def test_a_draft_models_layers_seal_themselves(state, monkeypatch):
    draft = Forwards(monkeypatch, pool(draft=True))
    draft.run(extend_step(), StockReason.PREFILL_FITS, [0, 2])
    assert draft.sealed(0) == draft.sealed(2) == SEALED
