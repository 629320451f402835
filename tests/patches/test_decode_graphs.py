"""Two decode graphs of each size, with HISA and with stock DSA: the lengths on the host choose."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sglang_hisa import plan as planning
from sglang_hisa.budget import Rule
from sglang_hisa.config import from_mapping
from sglang_hisa.counts import StockReason
from sglang_hisa.kernels.tuning import DEFAULT
from sglang_hisa.patches import decode_graphs, indexer, runtime
from sglang_hisa.summaries import PageSummaries
from tests.kernels.conftest import index_cache
from tests.plugins.oracle.hisa_rebuild import stale_pages


@pytest.fixture
def state(monkeypatch):
    def make(**given):
        made = runtime.Runtime(from_mapping(given), sglang="test", patches=0)
        monkeypatch.setattr(runtime, "_runtime", made)
        made.rows.allocate(torch.device("cpu"), "torch")
        return made

    return make


def batch(*lengths):
    return SimpleNamespace(seq_lens_cpu=torch.tensor(lengths, dtype=torch.int64))


def capture(seen, fail_at="never"):
    def original(self, size, forward, stream_idx, variant_label, *args, **kwargs):
        if variant_label == fail_at:
            raise RuntimeError("out of memory")
        seen.append((size, variant_label, runtime.current().capturing_stock, args))

    return original


@pytest.mark.parametrize(
    "given,first,second", [(None, None, "hisa-stock"), ("nolora", "nolora", "nolora-hisa-stock")]
)
def test_each_size_is_captured_with_hisa_and_then_with_stock(state, given, first, second):
    made, seen = state(), []
    decode_graphs.around_capture(capture(seen), None, 7, "forward", 3, given, "attention")
    assert seen == [(7, first, False, ("attention",)), (7, second, True, ("attention",))]
    assert made.capturing_stock is False


def test_a_failed_capture_leaves_the_flag_down(state):
    made = state()
    with pytest.raises(RuntimeError, match="out of memory"):
        decode_graphs.around_capture(capture([], "hisa-stock"), None, 7, "forward")
    assert made.capturing_stock is False


def test_speculative_decoding_has_no_second_graphs(state):
    """Its lengths on the host leave out the draft tokens: a verify row of 4096 + 4 may not fit."""
    made, seen = state(), []
    made.speculative, made.decode_rule = True, Rule(64, 0, 64)
    decode_graphs.around_capture(capture(seen), None, 2, "forward")
    assert [row[1] for row in seen] == [None]
    assert decode_graphs.around_variant(lambda self, batch: "lora", None, batch(77)) == "lora"


def test_decode_that_is_stock_anyway_is_captured_once(state):
    state(decode_tokens=0)
    seen = []
    decode_graphs.around_capture(capture(seen), None, 2, "forward")
    assert [row[1] for row in seen] == [None]


@pytest.mark.parametrize(
    "lengths,label",
    [
        ((4096, 1, 77), "hisa-stock"),  # 64 blocks of 64, all of them kept
        ((4096,) * 64, "hisa-stock"),  # however many there are
        ((77, 135167), "hisa-stock"),  # 4K of 132K: 128K tokens less one are left unread
        ((77, 135168), None),
        ((8192,) * 31, "hisa-stock"),
        ((8192,) * 32, None),
        ((), None),
    ],
)
def test_a_small_budget_must_leave_some_unread(state, lengths, label):
    state().decode_rule = Rule(64, 0, 64)
    assert decode_graphs.around_variant(lambda self, batch: None, None, batch(*lengths)) == label


@pytest.mark.parametrize(
    "blocks,lengths,label",
    [
        (512, (32768 + 1048575,), "hisa-stock"),  # 1M tokens less one are left unread
        (512, (32768 + 1048576,), None),
        (512, (262144,), "hisa-stock"),  # 7 % slower when it was pruned (ab-served-256k of 61aaf3a1f66b)
        (512, (262208,) * 4, "hisa-stock"),  # 3 % slower when it was pruned (ab-many-256k)
        (512, (131072,) * 10, "hisa-stock"),
        (512, (131072, 100, *[131072] * 10), None),  # a row of 100 takes nothing from what the others leave
        (256, (16384 + 131072,), None),  # in 16K top-k is fast: half of that is enough
        (257, (100_000,), "hisa-stock"),
    ],
)
def test_a_large_budget_must_leave_enough_unread(state, blocks, lengths, label):
    state().decode_rule = Rule(blocks, 0, 64)
    assert decode_graphs.around_variant(lambda self, batch: None, None, batch(*lengths)) == label


def test_a_growing_budget_is_followed(state):
    state().decode_rule = Rule(32, 1 << 15, 64)  # half of the context
    for rows, label in ((63, "lora-hisa-stock"), (64, "lora")):
        assert decode_graphs.around_variant(lambda self, batch: "lora", None, batch(*[4096] * rows)) == label


def test_unknown_lengths_or_budget_take_the_graph_that_is_always_right(state):
    made = state()
    assert decode_graphs.around_variant(lambda self, batch: None, None, batch(9)) is None
    made.decode_rule = Rule(64, 0, 64)
    assert (
        decode_graphs.around_variant(lambda self, batch: None, None, SimpleNamespace(seq_lens_cpu=None))
        is None
    )


def decode_step(drafts=None, verify=False):
    return SimpleNamespace(forward_mode=SimpleNamespace(is_decode=lambda: not verify), spec_info=drafts)


def step_of(made):
    """What the paged hook decides for two rows, and whether their seal waits for the choice."""
    forward = decode_step()
    lengths = torch.tensor([5, 9], dtype=torch.int32)
    asked = {"get_seqlens_expanded": lambda: lengths, "get_seqlens_int32": lambda: lengths}
    metadata = SimpleNamespace(**asked, attn_metadata=object())
    args = (made, forward, metadata, None, None, torch.zeros(2, 1, 128), 2)
    return indexer._decode_step(*args), indexer._rows_seal(forward)


def test_the_stock_graph_calls_stock_and_counts_its_rows(state):
    made = state()
    made.capturing_stock = True
    assert step_of(made) == (StockReason.DECODE_NOTHING_TO_GAIN, True)
    assert indexer._rows_seal(decode_step())
    assert made.receipt()["rows"]["stock"] == {StockReason.DECODE_NOTHING_TO_GAIN: 2}
    assert step_of(state(decode_tokens=0)) == (StockReason.DECODE_OFF, True)


@pytest.mark.parametrize("given", [{}, {"decode_tokens": 0}], ids=["the second graph", "decode off"])
def test_the_stock_graph_seals_every_layer_after_its_last(state, monkeypatch, given):
    """Layer 1 stores nothing; layer 3's indexer never runs. Row 1 completes no page."""
    made = state(**given)
    made.layers, made.capturing_stock = {0, 1, 2}, not given
    buffers = [index_cache(9, torch.device("cpu"), seed=i) for i in range(4)]
    buffers[1] = buffers[1][:0]
    summaries = PageSummaries(buffers, 0, "torch")
    monkeypatch.setattr(indexer, "_summaries", lambda layer_id: (summaries, None))
    lengths = torch.tensor([64, 70, 128], dtype=torch.int32)
    table = torch.tensor([[3, 0], [5, 6], [7, 8]], dtype=torch.int32)
    asked = {"get_seqlens_expanded": lambda: lengths, "get_seqlens_int32": lambda: lengths}
    asked |= {"get_page_table_64": lambda: table, "get_dsa_extend_len_cpu": lambda: [1, 1, 1]}
    metadata = SimpleNamespace(**asked, attn_metadata=object(), topk_backend=None)
    layer = SimpleNamespace(index_topk=64, num_init_tokens=0, num_local_tokens=0, sm_count=1)
    monkeypatch.setattr(indexer, "SglangKernels", lambda *args: None)
    forward, q = decode_step(), torch.zeros(3, 1, 128)
    for layer_id, sealed in ((0, []), (2, [3, 8])):
        indexer.after_store(None, layer, forward, layer_id, None)
        asked_for = (layer, forward, layer_id, q, torch.zeros(3, 1, 1), metadata)
        assert indexer.around_topk_paged(lambda *args: "stock", *asked_for) == "stock"
        for one in (0, 2, 3):
            stale = stale_pages(summaries, one, torch.arange(9)).tolist()
            assert stale == [page for page in range(9) if page not in sealed], (layer_id, one)


@pytest.mark.parametrize(
    "few,shown", [(0, "deepgemm"), (16, "deepgemm; triton up to 16 rows of decode")], ids=["never", "16 rows"]
)
def test_the_receipt_names_every_kernel_of_the_token_scores(state, monkeypatch, few, shown):
    """Whichever step came last."""
    monkeypatch.setattr(indexer, "for_device", lambda device: replace(DEFAULT, refine_rows=few))
    monkeypatch.setattr(planning, "for_device", indexer.for_device)
    made, q = state(), SimpleNamespace(device=torch.device("cuda"), shape=(3, 64, 128))
    for rows, kernel in ((None, "deepgemm"), (16, "triton" if few else "deepgemm"), (17, "deepgemm")):
        assert indexer.refine_of(made, q, rows) == kernel
        assert made.receipt()["refine"] == shown
    asked = state(refine="triton")
    assert indexer.refine_of(asked, q, 17) == asked.receipt()["refine"] == "triton"


def test_draft_and_verify_steps_seal_by_themselves(state):
    """Draft rows store past their length, so the coarse launch would seal the page before. A verify row may
    read the page that an earlier row of its request completed, in the same launch."""
    state()
    assert not indexer._rows_seal(decode_step(drafts="EagleDraftInput"))
    assert not indexer._rows_seal(decode_step(drafts="EagleVerifyInput", verify=True))
