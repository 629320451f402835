"""The canary's hook on ``ModelRunner.forward``: which batches it hands over, and with what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.canary import SAMPLE_EVERY, SAMPLE_PAGES
from sglang_hisa.config import from_mapping
from sglang_hisa.kernels.layout import ROW_BYTES
from sglang_hisa.patches import canary, contract, runtime
from sglang_hisa.summaries import PageSummaries


@pytest.fixture(params=["full", "sample"])
def state(request: pytest.FixtureRequest) -> runtime.Runtime:
    config = from_mapping({"canary": request.param})
    runtime.start(runtime.Runtime(config, contract.installed_version() or "", 14))
    return runtime.current()


def turn(state: runtime.Runtime) -> int:
    """Forwards of a pool from one that is compared to the next."""
    return SAMPLE_EVERY if state.config.canary == "sample" else 1


def runner(layers: int = 3, draft: bool = False) -> Any:
    buffers = [torch.zeros(9, ROW_BYTES, dtype=torch.uint8) for _ in range(layers)]
    table = torch.arange(3 * PAGE, 6 * PAGE, dtype=torch.int32).repeat(4, 1)
    return SimpleNamespace(
        token_to_kv_pool=SimpleNamespace(_hisa_summaries=PageSummaries(buffers, 7, "torch", draft=draft)),
        req_to_token_pool=SimpleNamespace(req_to_token=table),
    )


def decode_batch(lengths: list[int], on_host: bool = True) -> Any:
    rows = len(lengths)
    return SimpleNamespace(
        seq_lens=torch.tensor(lengths),
        seq_lens_cpu=torch.tensor(lengths) if on_host else None,
        req_pool_indices=torch.arange(rows),
        forward_mode=SimpleNamespace(name="DECODE"),
        rids=None,
        out_cache_loc=torch.zeros(rows, dtype=torch.int64),
        extend_seq_lens=None,
    )


def forward(self: Any, batch: Any, pp_proxy_tensors: Any = None) -> tuple[Any, Any]:
    return batch, pp_proxy_tensors


@pytest.mark.parametrize("on_host", [True, False], ids=["lengths on the host", "on the device only"])
def test_only_layers_with_an_indexer_are_compared(state: runtime.Runtime, on_host: bool) -> None:
    """Pages 3 and 4 of two rows; the pool's layers are 7 to 9, and 8 has no indexer of its own."""
    state.layers = {7, 9, 12}
    made, batch = runner(), decode_batch([2 * PAGE + 1, 1], on_host)
    assert canary.around_forward(forward, made, batch, pp_proxy_tensors=5) == (batch, 5)
    sampled = state.config.canary == "sample"
    checks = SAMPLE_PAGES if sampled else 4
    expected = {"mode": state.config.canary, "checks": checks, "violations": 0, "first": None}
    assert state.receipt()["canary"] == expected
    made.token_to_kv_pool._hisa_summaries.layer(8).scales[3] = 1
    made.token_to_kv_pool._hisa_summaries.layer(9).scales[4] = 1
    for _ in range(turn(state)):
        canary.around_forward(forward, made, batch)
    found = state.receipt()["canary"]
    # The second sample is of the second layer; half of it is the newest page.
    assert found["checks"] == 2 * checks
    assert found["violations"] >= SAMPLE_PAGES / 2 if sampled else found["violations"] == 1
    assert "page 4 in layer 9" in found["first"] and "last writer: not known" in found["first"]


def test_padding_of_dp_attention_takes_no_writes(state: runtime.Runtime) -> None:
    """Three rows are padded to six inside the forward: the second row stays the writer of its page."""
    state.layers = {7}
    made, batch = runner(1), decode_batch([2 * PAGE] * 3)
    batch.rids = ["a", "b", "c"]
    batch.out_cache_loc = torch.tensor([8, 4, 5]) * PAGE + 63
    made.token_to_kv_pool._hisa_summaries.layer(7).scales[4] = 1

    def padded(self: Any, batch: Any) -> None:
        batch.out_cache_loc = torch.nn.functional.pad(batch.out_cache_loc, (0, 3))

    canary.around_forward(padded, made, batch)
    assert state.receipt()["canary"]["first"].endswith("decode of request b")


def test_forwards_with_nothing_to_compare_are_left_alone(state: runtime.Runtime) -> None:
    state.layers = {7}
    idle, made = decode_batch([]), runner()
    assert canary.around_forward(forward, made, idle) == (idle, None)
    other = SimpleNamespace(token_to_kv_pool=object())
    batch = decode_batch([PAGE])
    assert canary.around_forward(forward, other, batch) == (batch, None), "a pool without summaries"
    state.layers = set()
    assert canary.around_forward(forward, made, batch) == (batch, None), "no layer of this stage"
    assert state.receipt()["canary"]["checks"] == 0


def test_a_verify_forward_is_compared_with_its_drafts(state: runtime.Runtime) -> None:
    """Its lengths are those before them: 126 tokens and 3 drafts are two complete pages, 2 drafts as well."""
    state.layers = {7}
    checks = 0  # each runner below has a pool of its own, whose first forward is sampled
    for drafts, pages in ((1, 1), (2, 2), (3, 2)):
        batch = decode_batch([2 * PAGE - 2])
        batch.forward_mode = SimpleNamespace(name="TARGET_VERIFY")
        batch.spec_info = SimpleNamespace(draft_token_num=drafts)
        canary.around_forward(forward, runner(), batch)
        checks += SAMPLE_PAGES if state.config.canary == "sample" else pages
        assert state.receipt()["canary"]["checks"] == checks


def test_a_draft_model_writes_to_its_own_pages(state: runtime.Runtime) -> None:
    """Both pools number their pages alike; the last writer of the target's page 3 is the target's forward."""
    state.layers = {7}
    target, draft, batch = runner(1), runner(1, draft=True), decode_batch([PAGE])
    batch.out_cache_loc += 3 * PAGE + 63
    for model in (target, draft):
        canary.around_forward(forward, model, batch)
    target.token_to_kv_pool._hisa_summaries.layer(7).scales[3] = 1
    for _ in range(turn(state)):
        canary.around_forward(forward, target, decode_batch([PAGE + 1]))
    first = state.receipt()["canary"]["first"]
    assert "page 3 in layer 7" in first and first.endswith("last writer: event 0, decode")
    before = state.receipt()["canary"]["violations"]
    draft.token_to_kv_pool._hisa_summaries.layer(7).scales[3] = 1
    for _ in range(turn(state)):
        canary.around_forward(forward, draft, decode_batch([PAGE + 1]))
    assert state.receipt()["canary"]["violations"] > before


def test_nothing_is_compared_while_a_graph_is_captured(
    state: runtime.Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draft steps are captured through this hook, where no event may be asked for."""
    state.layers = {7, 8, 9}
    made, batch = runner(), decode_batch([2 * PAGE + 1, PAGE])
    monkeypatch.setattr(canary, "_capturing", lambda device: True)
    assert canary.around_forward(forward, made, batch, pp_proxy_tensors=5) == (batch, 5)
    assert state.receipt()["canary"]["checks"] == 0
