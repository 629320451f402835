"""Perturbations: each way in which a summary can go wrong is injected, and the canary must name it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.canary import SAMPLE_EVERY, SAMPLE_PAGES, Canary, CanaryViolation
from sglang_hisa.kernels.layout import FP8, HEAD_DIM, KEY_BYTES, ROW_BYTES
from sglang_hisa.summaries import PageSummaries
from tests.plugins.oracle.hisa_rebuild import stale_pages

PAGES, START, LAYERS = 23, 2, [2, 4]


@dataclass
class Cache:
    """A pool of three layers, the middle one without index keys, and the requests whose pages lie in it."""

    canary: Canary
    tables: torch.Tensor = field(default_factory=lambda: torch.zeros(5, 7 * PAGE, dtype=torch.int32))
    lengths: dict[int, int] = field(default_factory=dict)
    sealing: bool = True

    def __post_init__(self) -> None:
        sizes = (PAGES, 0, PAGES)
        buffers = [torch.zeros(size, ROW_BYTES, dtype=torch.uint8) for size in sizes]
        self.summaries = PageSummaries(buffers, START, "torch")
        self.random = torch.Generator().manual_seed(3)

    def admit(self, table: int, pages: list[int]) -> None:
        self.lengths[table] = 0
        slots = [page * PAGE + at for page in pages for at in range(PAGE)]
        self.tables[table, : len(slots)] = torch.tensor(slots, dtype=torch.int32)

    def store(self, slots: torch.Tensor) -> None:
        page, at = slots // PAGE, slots % PAGE
        for layer in LAYERS:
            index_k = self.summaries.layer(layer).index_k
            keys = torch.randn(len(slots), HEAD_DIM, generator=self.random).to(FP8).view(torch.uint8)
            index_k[:, :KEY_BYTES].view(PAGES, PAGE, HEAD_DIM)[page, at] = keys
            scales = torch.rand(len(slots), generator=self.random) + 0.1
            index_k.view(torch.float32)[:, KEY_BYTES // 4 :][page, at] = scales

    def seal(self, slots: torch.Tensor) -> None:
        for layer in LAYERS:
            self.summaries.seal_tokens(layer, slots)

    def forward(self, tokens: dict[int, int]) -> None:
        """One forward that adds ``tokens`` to each table's request."""
        before = [self.lengths[table] for table in tokens]
        for table, count in tokens.items():
            self.lengths[table] += count
        after = [self.lengths[table] for table in tokens]
        watched = self.canary.begin(
            self.summaries,
            self.tables,
            torch.tensor(list(tokens)),
            torch.tensor(after, dtype=torch.int32),
            max(after),
            "extend" if max(tokens.values()) > 1 else "decode",
            [f"r{table}" for table in tokens],
        )
        parts = [self.tables[t, a:b] for t, a, b in zip(tokens, before, after)]
        slots = torch.cat(parts).long()
        self.store(slots)
        if self.sealing:
            self.seal(slots)
        counts = torch.tensor(list(tokens.values())) if max(tokens.values()) > 1 else None
        self.canary.end(self.summaries, LAYERS, watched, slots, counts)

    def counts(self) -> tuple[int, int]:
        report = self.canary.report()
        return report["checks"], report["violations"]


def busy(mode: str = "full", stop: bool = False) -> Cache:
    """Three requests in the middle of their work: 130, 64 and 200 tokens."""
    cache = Cache(Canary(mode, stop))
    cache.admit(1, [5, 9, 3])
    cache.admit(4, [7, 11])
    cache.forward({1: 130, 4: 63})
    cache.forward({1: 1, 4: 1})
    cache.admit(2, [20, 2, 13, 6])
    cache.forward({2: 200})
    return cache


def test_right_summaries_are_counted_and_nothing_is_found():
    cache = busy()
    # Complete pages of each forward, in both layers: 2 + 0, then 2 + 1, then 3.
    assert cache.counts() == (2 * (2 + 3 + 3), 0)
    assert cache.canary.report()["first"] is None


def flipped_key(cache: Cache) -> None:
    cache.summaries.layer(4).keys.view(torch.uint8)[9, 77] ^= 1


def flipped_scale(cache: Cache) -> None:
    cache.summaries.layer(4).scales.view(torch.int32)[9] ^= 1


def key_changed_behind_our_back(cache: Cache) -> None:
    cache.summaries.layer(4).index_k[9, :KEY_BYTES] ^= 0x80


def scale_changed_behind_our_back(cache: Cache) -> None:
    cache.summaries.layer(4).index_k.view(torch.float32)[9, KEY_BYTES // 4 + 63] *= 8


def summary_of_another_page(cache: Cache) -> None:
    layer = cache.summaries.layer(4)
    layer.keys.view(torch.uint8)[9] = layer.keys.view(torch.uint8)[5]
    layer.scales[9] = layer.scales[5]


def summary_of_another_layer(cache: Cache) -> None:
    cache.summaries.layer(4).keys.view(torch.uint8)[9] = cache.summaries.layer(2).keys.view(torch.uint8)[9]


IN_PLACE = [
    flipped_key,
    flipped_scale,
    key_changed_behind_our_back,
    scale_changed_behind_our_back,
    summary_of_another_page,
    summary_of_another_layer,
]


@pytest.mark.parametrize("corrupt", IN_PLACE, ids=lambda function: function.__name__)
def test_corruption_in_place_is_named(corrupt):
    cache = busy()
    corrupt(cache)
    cache.forward({2: 1})
    assert cache.counts()[1] == 0, "the page belongs to no request of this forward"
    cache.forward({4: 1, 1: 1})
    assert cache.counts()[1] == 1
    found = cache.canary.report()["first"]
    assert "page 9 in layer 4" in found and "decode of request r1, as its tokens 64 to 127" in found
    assert found.endswith("last writer: event 0, extend of request r1")


def test_missed_seal():
    cache = busy()
    cache.sealing = False
    cache.forward({1: 60})  # 191 tokens: no page is completed
    assert cache.counts()[1] == 0
    cache.forward({4: 1, 1: 1})
    assert cache.counts()[1] == 2, "once in each layer"
    found = cache.canary.report()["first"]
    assert "page 3 in layer 2" in found and "last writer: event 4, decode of request r1" in found


def test_stale_after_page_reuse():
    cache = busy()
    cache.admit(3, [9, 5])  # both held another request's keys and have its summaries
    cache.sealing = False
    cache.forward({3: 70})
    assert cache.counts()[1] == 2
    found = cache.canary.report()["first"]
    assert "page 9 in layer 2" in found and "request r3" in found


def test_seal_of_the_wrong_page(monkeypatch):
    cache = busy()
    honest = Cache.seal
    monkeypatch.setattr(Cache, "seal", lambda self, slots: honest(self, slots + PAGE))
    cache.forward({1: 61})  # completes page 3; page 4 gets its seal
    assert cache.counts()[1] == 2 and "page 3 in layer 2" in cache.canary.report()["first"]


@pytest.mark.parametrize("shift", [1, -1], ids=["one token early", "one token late"])
def test_seal_off_by_one(monkeypatch, shift):
    cache = busy()
    honest = Cache.seal
    monkeypatch.setattr(Cache, "seal", lambda self, slots: honest(self, slots + shift))
    for _ in range(61):
        cache.forward({1: 1})  # 192 tokens at the end
    assert cache.counts()[1] == 2 and "tokens 128 to 191" in cache.canary.report()["first"]


def test_mover_that_does_not_reseal_is_named():
    cache = busy()
    cache.summaries.layer(2).index_k[13, :KEY_BYTES] ^= 0x80
    cache.canary.moved(cache.summaries, "load_cpu_copy", torch.tensor([13, 6]))
    cache.forward({2: 1})
    assert cache.canary.report()["first"].endswith("last writer: event 3, load_cpu_copy")


def test_a_table_that_changes_hands_after_the_forward_is_no_violation():
    """Overlap schedule: the scheduler may give the table to a new request while the forward runs."""
    cache = busy()
    store = cache.store

    def store_and_reuse(slots: torch.Tensor) -> None:
        store(slots)
        cache.tables[1, : 3 * PAGE] = torch.arange(15 * PAGE, 18 * PAGE, dtype=torch.int32)

    cache.summaries.layer(2).index_k[15:18] ^= 0x80  # not sealed: the new request has yet to fill them
    cache.store = store_and_reuse
    cache.forward({1: 1})
    assert cache.counts()[1] == 0


def test_stop_raises_with_page_layer_request_and_writer():
    cache = busy(stop=True)
    flipped_key(cache)
    with pytest.raises(
        CanaryViolation, match=r"page 9 in layer 4 .* request r1.*last writer: event 0, extend"
    ):
        cache.forward({1: 1})


@pytest.mark.parametrize("corrupt", IN_PLACE, ids=lambda function: function.__name__)
def test_sample_finds_corruption_in_a_bounded_number_of_pages(corrupt):
    cache = busy("sample")
    assert cache.counts() == (SAMPLE_PAGES, 0), "the first of three forwards"
    corrupt(cache)
    found = []
    for _ in range(3, 2 * SAMPLE_EVERY + 1):
        cache.forward({1: 1, 2: 1, 4: 1})
        found.append(cache.counts())
    checks = [checks for checks, _ in found]
    assert checks == [
        SAMPLE_PAGES * (1 + number // SAMPLE_EVERY) for number in range(3, 2 * SAMPLE_EVERY + 1)
    ]
    assert 0 < found[-1][1] < 2 * SAMPLE_PAGES, "one layer at a time: each of the two had its turn"


def test_sample_reaches_every_page_and_layer():
    """Pages chosen over many forwards are those of the requests, and all of them."""
    cache = busy("sample")
    seen = set()
    watched_pages = cache.canary._sample
    complete = torch.tensor([2, 0, 3, 1])
    for _ in range(3):
        rows, positions, inside = watched_pages(complete)
        assert inside.all()
        seen |= set(zip(rows.tolist(), positions.tolist()))
    assert seen == {(0, 0), (0, 1), (2, 0), (2, 1), (2, 2), (3, 0)}
    assert not watched_pages(torch.tensor([0, 0]))[2].any()


def test_sampling_leaves_the_random_numbers_of_others_alone():
    state = torch.random.get_rng_state()
    busy("sample")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_counts_reach_the_listener_once():
    told = []
    cache = Cache(Canary("full"))
    cache.canary.on_counted = lambda checks, violations: told.append((checks, violations))
    cache.admit(1, [5, 9, 3])
    cache.forward({1: 63})
    cache.forward({1: 1})
    flipped_key(cache)
    cache.forward({1: 64})
    cache.summaries.reseal(torch.tensor([5]))
    cache.summaries.layer(2).scales[5] = 0
    cache.forward({1: 1})
    assert told == [(2, 0), (4, 0), (4, 1)] and cache.counts() == (10, 1)


def test_the_dummy_page_and_unwritten_pages_are_no_violations():
    cache = Cache(Canary("full"))
    cache.admit(1, [0, 5])
    cache.forward({1: 64})
    cache.summaries.layer(2).index_k[0] ^= 0x80
    cache.forward({1: 1})
    assert cache.counts() == (0, 0), "page 0 is never looked at"
    fresh = PageSummaries([torch.zeros(3, ROW_BYTES, dtype=torch.uint8)], 0, "torch")
    assert stale_pages(fresh, 0, torch.tensor([0, 1, 2])).numel() == 0
