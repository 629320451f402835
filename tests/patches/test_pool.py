"""Pool adapters: summaries are allocated, counted, resealed and dropped with the buffers they describe."""

import sys
from types import SimpleNamespace

import pytest
import torch

from sglang_hisa.config import parse
from sglang_hisa.kernels.layout import ROW_BYTES
from sglang_hisa.patches import contract, pool, runtime
from sglang_hisa.patches.behaviours import DRAFT_LOADS, INDEXER_CELLS, TOKEN_MOVES
from tests.kernels.conftest import index_cache
from tests.plugins.oracle.hisa_rebuild import stale_pages

PAGE_SUMMARY = 132


@pytest.fixture
def state():
    runtime.start(runtime.Runtime(parse("balanced"), contract.installed_version(), 14))
    return runtime.current()


def make_pool(pages=9, layers=2):
    buffers = [index_cache(pages, "cpu", seed=i) for i in range(layers)]
    return SimpleNamespace(index_k_with_scale_buffer=buffers, start_layer=5)


def test_allocated_counted_and_dropped(state):
    kv = make_pool()
    assert pool.after_size(1000, kv) == 1000, "SGLang asks once before the summaries exist"
    pool.after_init(None, kv)
    assert state.summary_bytes == 2 * 9 * PAGE_SUMMARY and state.backend == "torch"
    assert pool.after_size(1000, kv) == 1000 + 2 * 9 * PAGE_SUMMARY
    pool.after_clear(None, kv)
    assert kv._hisa_summaries is None


def test_the_second_pool_of_speculative_decoding_is_the_draft_models(state):
    kept = []
    for speculative in (False, True):
        runtime.start(runtime.Runtime(parse("balanced"), contract.installed_version(), 14))
        runtime.current().speculative = speculative
        pools = [make_pool(layers=3), make_pool(layers=1)]
        for kv in pools:
            pool.after_init(None, kv)
        kept.append([kv._hisa_summaries.draft for kv in pools])
        assert runtime.current().receipt()["draft_layers"] == int(speculative)
        assert runtime.current().summary_bytes == 4 * 9 * PAGE_SUMMARY
    assert kept == [[False, False], [False, True]]


def test_bytes_from_the_host_are_resealed(state):
    kv = make_pool()
    pool.after_init(None, kv)
    slots = torch.arange(3 * 64, 5 * 64)
    assert stale_pages(kv._hisa_summaries, 6, torch.tensor([3, 4])).tolist() == [3, 4]
    pool.after_load_cpu_copy(None, kv, {}, slots)
    for layer in (5, 6):
        assert stale_pages(kv._hisa_summaries, layer, torch.tensor([3, 4])).numel() == 0
        assert stale_pages(kv._hisa_summaries, layer, torch.tensor([2, 5])).tolist() == [2, 5]
    assert state.rebuilt == {"load_cpu_copy": 2}


def test_pages_that_come_back_without_the_draft_models(state):
    """The draft's pages of these numbers keep other bytes: their summaries must be of those."""
    state.speculative = True
    kv, draft = make_pool(), make_pool(layers=1)
    for each in (kv, draft):
        pool.after_init(None, each)
    slots, pages = torch.arange(3 * 64, 5 * 64), torch.arange(9)

    def stale():
        return stale_pages(draft._hisa_summaries, 5, pages).tolist()

    assert stale() == pages.tolist()
    pool.after_load_cpu_copy(None, kv, {}, slots)
    assert stale() == [0, 1, 2, 5, 6, 7, 8] and state.rebuilt == {"load_cpu_copy": 2}
    for behaviours, left in (
        ({DRAFT_LOADS}, [0, 1, 2, 5, 6, 7, 8]),  # SGLang loads the draft's itself
        ((), [0, 1, 2, 7, 8]),
    ):
        state.behaviours = frozenset(behaviours)
        for layer in (0, 1):
            pool.after_host_load(None, None, kv, None, slots + 2 * 64, layer, "kernel")
        assert stale() == left
    assert state.rebuilt["hicache_load"] == 2 * 2


def test_move_reseals_or_is_refused(state):
    kv = make_pool()
    pool.after_init(None, kv)
    moved = []

    def original(self, target, source):
        moved.append(target)
        self.index_k_with_scale_buffer[0][7] = self.index_k_with_scale_buffer[0][2]

    target, source = torch.tensor([7 * 64 + 1]), torch.tensor([2 * 64 + 1])
    assert TOKEN_MOVES not in state.behaviours
    with pytest.raises(RuntimeError, match="31060"):
        pool.around_move(original, kv, target, source)
    assert not moved, "a move of pages by token numbers must not touch the cache"
    state.behaviours = frozenset({TOKEN_MOVES})
    pool.around_move(original, kv, target, source)
    assert len(moved) == 1 and stale_pages(kv._hisa_summaries, 5, torch.tensor([7])).numel() == 0
    assert state.rebuilt == {"move_kv_cache": 1}


def test_pages_from_a_prefill_server_are_resealed(state):
    """Requests of 70, 0, 129 and 64 tokens, the third behind a cached prefix; the draft's pool as well."""
    pools = [make_pool(pages=12), make_pool(pages=12, layers=1)]
    for kv in pools:
        pool.after_init(None, kv)
    received = [range(3 * 64, 4 * 64 + 6), range(0), range(6 * 64, 8 * 64 + 1), range(10 * 64, 11 * 64)]
    slots = torch.tensor([slot for part in received for slot in part])
    pool.after_prebuilt(None, SimpleNamespace(out_cache_loc=slots, extend_lens=[70, 0, 129, 64]))
    pages = [3, 4, 6, 7, 8, 10]
    for kv, layers in zip(pools, ((5, 6), (5,))):
        for layer in layers:
            stale = stale_pages(kv._hisa_summaries, layer, torch.arange(12)).tolist()
            assert stale == [page for page in range(12) if page not in pages]
    assert state.rebuilt == {"pd_receive": 6}


def test_pool_sizing_counts_the_summaries(monkeypatch):
    layers = 61
    index_keys = ROW_BYTES // 64 * layers
    if INDEXER_CELLS not in contract.read(contract.installed_root()).behaviours:
        # The real module imports torchvision, which has no CPU build here.
        models = SimpleNamespace(is_deepseek_dsa=lambda config: config.index_topk is not None)
        monkeypatch.setitem(sys.modules, "sglang.srt.configs.model_config", models)
        hf = SimpleNamespace(index_topk=2048)
        kvc = SimpleNamespace(use_mla_backend=True, model_config=SimpleNamespace(hf_config=hf))
        grown = pool.after_cell_size(5000, None, kvc, layers) - 5000
        hf.index_topk = None
        assert pool.after_cell_size(5000, None, kvc, layers) == 5000, "not a DSA model"
    else:
        grown = pool.after_indexer_cell_size(index_keys, None, kvc=None, num_layers=layers) - index_keys
    assert layers * PAGE_SUMMARY / 64 <= grown < layers * PAGE_SUMMARY / 64 + 1
    assert grown / index_keys <= 0.031, "the memory goal: at most 3.1 % of the index keys"


def test_a_load_from_the_host_waits_for_the_step_in_flight(state, monkeypatch):
    """That step may still store to pages which its requests have freed and the load now fills."""
    order = []
    here = SimpleNamespace(wait_stream=order.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: here)
    pool.before_loading(None)
    assert order == [], "no stream of forwards is known: a CPU"
    monkeypatch.setattr(state, "forward_stream", "forwards")
    pool.before_loading(None)
    assert order == ["forwards"]


def test_tritons_kernels_on_a_cpu_need_its_interpreter(monkeypatch):
    state = runtime.Runtime(parse('{"kernels": "triton"}'), contract.installed_version(), 14)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert pool._backend(state, torch.device("cpu")) == "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(SystemExit, match="\nFix: export TRITON_INTERPRET=1\n"):
        pool._backend(state, torch.device("cpu"))
