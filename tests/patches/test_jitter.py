"""Random delays of the stress runner: where they are, and that they last."""

import time

import pytest
import torch

from sglang_hisa.patches import contract
from sglang_hisa.summaries import PageSummaries
from tests.history.sglang_cache import importable
from tests.plugins.jitter import hisa_jitter as jitter


def test_delays_are_random_and_last(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    calls = []
    delayed = jitter.Jitter(0.02, seed=3).before(lambda *args, **more: calls.append((args, more)))
    for number in range(400):
        delayed(number, layer=number)
    assert calls == [((n,), {"layer": n}) for n in range(400)]
    assert 150 < len(slept) < 250 and 0 <= min(slept) < 0.001 and 0.019 < max(slept) <= 0.02


def test_a_gpu_sleeps_on_its_stream_every_other_time(monkeypatch):
    host, cycles = [], []
    monkeypatch.setattr(time, "sleep", host.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_sleep", cycles.append)
    one = jitter.Jitter(0.01)
    assert all(one.delay(object(), layer_id=n) is None for n in range(400)), "arguments are left alone"
    assert min(len(host), len(cycles)) > 60 and 1e7 < max(cycles) <= 1.5e7


def test_stores_selections_loads_and_seals_are_delayed(monkeypatch):
    with importable():
        from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    hooks = []
    monkeypatch.setattr(HookRegistry, "register", lambda *hook: hooks.append(hook))
    for name in ("seal_tokens", "seal_rows", "reseal"):
        monkeypatch.setattr(PageSummaries, name, lambda self, *args: None)
    root = contract.installed_root()
    jitter.install(20, root)
    assert {kind for _, _, kind in hooks} == {HookType.BEFORE}
    targets = {target for target, _, _ in hooks}
    assert targets <= {one.target for one in contract.read(root).patches}
    assert {target.rsplit(".", 1)[1] for target in targets} == {
        "_store_index_k_cache",
        "_fused_k_prepare_and_store",
        "_get_topk_paged",
        "_get_topk_ragged",
        "load_to_device_per_layer",
    }
    begin = time.monotonic()
    for _ in range(30):
        PageSummaries.seal_tokens(None, 1, None)
        PageSummaries.reseal(None, None)
    assert time.monotonic() - begin > 0.15, "about 30 delays of 10 ms"


@pytest.mark.parametrize("setting", [None, "balanced"])
def test_delays_are_outside_of_hooks_that_are_registered_after_them(setting, monkeypatch):
    with importable():
        from sglang.srt.plugins.hook_registry import HookRegistry

    hooks = []
    monkeypatch.setattr(HookRegistry, "register", lambda *hook: hooks.append(hook))
    monkeypatch.setattr(HookRegistry, "apply_hooks", lambda: hooks.append("applied"))
    for name in ("seal_tokens", "seal_rows", "reseal"):
        monkeypatch.setattr(PageSummaries, name, getattr(PageSummaries, name))
    monkeypatch.setenv("JITTER_MS", "2.5")
    monkeypatch.delenv("SGLANG_HISA", raising=False)
    if setting:
        monkeypatch.setenv("SGLANG_HISA", setting)
    jitter.register()
    hooks.append("of another plugin")
    HookRegistry.apply_hooks()
    assert hooks[0] == "of another plugin" and hooks[-1] == "applied"
    assert len(hooks) == (7 if setting else 2), "a stock server has no delays"
