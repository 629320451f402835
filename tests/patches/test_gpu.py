"""A GPU that no record shows is declined by name, or served and marked where a setting asks for it."""

import dataclasses
import json
import subprocess
from types import SimpleNamespace

import pytest
import torch
from prometheus_client import REGISTRY

from sglang_hisa import gpu
from sglang_hisa.config import ENV, from_mapping, parse
from sglang_hisa.gpu import SHOWN, Gpu
from sglang_hisa.launch.pages import tables
from sglang_hisa.patches import contract, metrics, runtime, scheduler
from sglang_hisa.patches.behaviours import GPU_ARGUMENT
from sglang_hisa.patches.features import FEATURES

H100, B200 = Gpu("NVIDIA H100 80GB HBM3", (9, 0)), Gpu("NVIDIA B200", (10, 0))
CAPABILITIES = {"H100": (9, 0), "H200": (9, 0), "B200": (10, 0), "GB200": (10, 0), "B300": (10, 3)}


def test_capabilities_are_those_of_the_records():
    names = set()
    for path in (tables.ROOT / "launch/results").rglob("*.json"):
        found = json.loads(path.read_text())
        names |= {row["provenance"]["gpu"] for row in found["rows"] if "provenance" in row}
        names.add(found["provenance"]["gpu"])
    shown = {CAPABILITIES[name.split()[1]] for name in names if name}
    assert shown == set(SHOWN)


def typed(message):
    """``SGLANG_HISA`` after the command of the message's fix, in a shell."""
    command = message.partition("fix: ")[2].partition(" serves on it")[0]
    done = subprocess.run(["sh", "-c", f"{command}; printenv {ENV}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("text", ["balanced", '{"preset": "paper", "audit": 0.5, "block": 64}'])
def test_a_gpu_without_a_record_is_declined_with_a_fix_that_keeps_the_settings(text):
    config = parse(text)
    (reason,) = gpu.declined(B200, config)
    assert "NVIDIA B200" in reason and "10.0" in reason and "9.0" in reason
    asked = parse(typed(reason))
    assert asked == dataclasses.replace(config, unverified_gpu=True)
    assert gpu.declined(B200, asked) == gpu.declined(H100, config) == gpu.declined(None, config) == []
    assert gpu.unverified(B200) and not gpu.unverified(H100) and not gpu.unverified(None)


def test_a_capability_is_exact():
    assert not any(Gpu("some GPU", one).verified for one in ((8, 9), (9, 1), (10, 0), (10, 3), (12, 0)))


def test_the_gpu_is_the_one_asked_for(monkeypatch):
    names = {0: "NVIDIA T4", 3: "NVIDIA B200"}
    monkeypatch.setattr(torch.cuda, "get_device_name", names.get)
    monkeypatch.setattr(torch.cuda, "get_device_capability", {0: (7, 5), 3: (10, 0)}.get)
    assert gpu.find(3) is None, "a CPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu.find(3) == B200
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert gpu.find(3) is None, "ROCm has reasons of its own"


class Started(Exception):
    """The stock constructor was reached."""


@pytest.fixture
def start(monkeypatch):
    """Build a scheduler on a GPU as far as SGLang's own constructor."""
    monkeypatch.setattr(scheduler, "_hf_config", lambda args: SimpleNamespace())
    monkeypatch.setattr(scheduler, "_linear_attention", lambda config: False)
    monkeypatch.setattr(scheduler, "_not_dsa", lambda config: [])
    monkeypatch.setattr(scheduler, "_gpu_index", lambda state, args, kwargs: args[1])

    def original(*args, **kwargs):
        raise Started

    def build(found, config, **changes):
        monkeypatch.setattr(gpu, "find", {3: found}.get)
        runtime.start(runtime.Runtime(config, contract.installed_version(), 1))
        served = {**{feature.argument: None for feature in FEATURES}, "enable_deterministic_inference": False}
        args = SimpleNamespace(**{**served, **changes})
        scheduler.around_init(original, None, args, None, 3)

    return build


def test_it_is_declined_before_the_model_loads_together_with_everything_else(start):
    with pytest.raises(SystemExit) as caught:
        start(B200, parse("paper"), dcp_size=2, enable_lmcache=True)
    message = str(caught.value)
    assert all(part in message for part in ("NVIDIA B200", "dcp_size=2", "enable_lmcache", "unverified_gpu"))
    with pytest.raises(Started):
        start(H100, parse("paper"))
    assert runtime.current().config.prefill_group == 2
    assert runtime.current().receipt()["gpu"] == {
        "name": "NVIDIA H100 80GB HBM3",
        "capability": "9.0",
        "verified": True,
    }


def test_where_it_is_asked_for_it_is_served_and_marked(start, caplog):
    with pytest.raises(Started):
        start(B200, from_mapping({"unverified_gpu": True}))
    assert "unverified: NVIDIA B200" in caplog.text
    state = runtime.current()
    assert state.receipt()["gpu"] == {"name": "NVIDIA B200", "capability": "10.0", "verified": False}
    assert state.receipt()["config"]["unverified_gpu"] is True
    # Rows choose alone there, so a storage must not be shared with GPUs whose rows choose in groups.
    assert state.receipt()["config"]["prefill_group"] == 1
    assert (
        state.receipt()["fingerprint"] == from_mapping({"prefill_group": 1, "prefill_heads": 1}).fingerprint()
    )


@pytest.mark.parametrize("found,name,verified", [(B200, "NVIDIA B200 (10.0)", "no"), (None, "none", "")])
def test_metrics_name_the_gpu_and_whether_a_record_shows_it(found, name, verified):
    before = set(REGISTRY._collector_to_names)
    metrics.export(runtime.Runtime(parse("balanced"), "0.5.23", 1, gpu=found), {})
    (sample,) = [
        sample
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == "sglang_hisa:active"
    ]
    for collector in set(REGISTRY._collector_to_names) - before:
        REGISTRY.unregister(collector)
    assert (sample.labels["gpu"], sample.labels["gpu_verified"]) == (name, verified)


def test_0517_passes_the_number_of_the_gpu_and_the_receipt_of_a_cpu_has_none():
    told = runtime.Runtime(parse("balanced"), "0", 1, behaviours=frozenset({GPU_ARGUMENT}))
    assert scheduler._gpu_index(told, ("ports", 5, 0), {}) == 5
    assert scheduler._gpu_index(told, ("ports",), {"gpu_id": 2}) == 2
    assert runtime.Runtime(parse("balanced"), "0", 1).receipt()["gpu"] is None
