"""HiCache's loads with SGLang's own device and host pools: copied pages get summaries, no others do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sglang_hisa.kernels.layout import ROW_BYTES
from sglang_hisa.patches import pool, runtime
from tests.history.host_tier import HostTier, slots_of
from tests.history.sglang_cache import LAYERS, importable, make_pool
from tests.kernels.conftest import index_cache
from tests.patches.test_pool import make_pool as fake_pool
from tests.plugins.oracle.hisa_rebuild import stale_pages

PAGES = 11
SAVED, BACK, HOST = [7, 2, 9], [4, 10, 3], [5, 0, 3]
LAYOUTS = [
    ("kernel", "layer_first"),
    ("kernel", "page_first"),
    ("direct", "layer_first"),
    ("direct", "page_first_direct"),
]


@pytest.fixture(autouse=True)
def cache() -> Iterator[None]:
    with importable():
        yield


def summary_bytes(kv: Any, layer: int, pages: list[int]) -> torch.Tensor:
    found = kv._hisa_summaries.layers[layer]
    keys, scales = found.keys.view(torch.uint8)[pages], found.scales[pages, None].contiguous()
    return torch.cat((keys, scales.view(torch.uint8)), dim=1)


@pytest.mark.parametrize("io,layout", LAYOUTS, ids=[" ".join(pair) for pair in LAYOUTS])
def test_each_layer_is_resealed_and_no_other_page(
    io: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = make_pool(PAGES)
    summaries, state = kv._hisa_summaries, runtime.current()
    told: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(
        state.canary, "moved", lambda pool, what, pages: told.append((pool, what, pages.tolist()))
    )
    buffers = kv.index_k_with_scale_buffer
    for layer, buffer in enumerate(buffers):
        buffer.copy_(index_cache(buffer.shape[0], "cpu", seed=layer))
    summaries.reseal(torch.arange(PAGES + 1))
    right = [(buffers[i][SAVED].clone(), summary_bytes(kv, i, SAVED)) for i in range(LAYERS)]

    tier = HostTier(kv, 6, io, layout)
    tier.save(slots_of(HOST), slots_of(SAVED))
    for layer, buffer in enumerate(buffers):  # the device gives its pages to others
        buffer.copy_(index_cache(buffer.shape[0], "cpu", seed=50 + layer))
    before = [summary_bytes(kv, i, list(range(PAGES + 1))) for i in range(LAYERS)]
    for layer in range(LAYERS):
        tier.load_layer(slots_of(HOST), slots_of(BACK), layer)
        keys, sealed = right[layer]
        assert torch.equal(buffers[layer][BACK], keys), "SGLang's copy"
        assert torch.equal(summary_bytes(kv, layer, BACK), sealed)
        assert stale_pages(summaries, layer, torch.tensor(BACK)).numel() == 0
        for other in range(LAYERS):
            pages = [p for p in range(PAGES + 1) if p not in BACK or other > layer]
            assert torch.equal(summary_bytes(kv, other, pages), before[other][pages])
    assert told == [(summaries, "hicache_load", BACK)] and state.rebuilt == {"hicache_load": len(BACK)}


def test_pages_that_storage_brought_to_the_host() -> None:
    """A storage backend (L3) writes host pages; they reach the device through the same load."""
    kv = make_pool(PAGES)
    rows = [index_cache(3, "cpu", seed=layer) for layer in range(LAYERS)]
    tier = HostTier(kv, 6)
    for number, page in enumerate(HOST):
        tier.pool.set_from_flat_data_page(page * 64, torch.cat([layer[number] for layer in rows]))
    tier.load(slots_of(HOST), slots_of(BACK))
    for layer in range(LAYERS):
        assert torch.equal(kv.index_k_with_scale_buffer[layer][BACK], rows[layer])
        assert stale_pages(kv._hisa_summaries, layer, torch.tensor(BACK)).numel() == 0


def test_a_load_without_pages_changes_and_counts_nothing() -> None:
    kv = make_pool(PAGES)
    none = torch.empty(0, dtype=torch.int64)
    HostTier(kv, 6).load(none, none)
    assert runtime.current().rebuilt == {"hicache_load": 0}


def load(kv: Any, slots: torch.Tensor, layer: int, **more: Any) -> None:
    pool.after_host_load(None, None, kv, slots, slots, layer, "kernel", **more)


def test_layers_without_index_keys_and_draft_pools() -> None:
    """Layers that share a choice have no rows (0.5.23); a draft's only layer has another number."""
    make_pool(PAGES)  # starts the runtime
    state, slots = runtime.current(), slots_of([3, 5])
    kv = fake_pool()
    kv.index_k_with_scale_buffer.insert(0, torch.zeros(0, ROW_BYTES, dtype=torch.uint8))
    pool.after_init(None, kv)
    load(kv, slots, 0)
    assert not state.rebuilt
    for layer in (1, 2):
        load(kv, slots, layer)
        assert stale_pages(kv._hisa_summaries, 5 + layer, torch.tensor([3, 5])).numel() == 0
    assert state.rebuilt == {"hicache_load": 2}

    draft = fake_pool(layers=1)
    pool.after_init(None, draft)
    load(draft, slots, 61, is_draft=True)
    assert stale_pages(draft._hisa_summaries, 5, torch.tensor([3, 5])).numel() == 0
    assert state.rebuilt == {"hicache_load": 2}, "the draft's pages are those of the target"
