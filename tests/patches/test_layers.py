"""Which layers HISA serves: those that choose for themselves, in models that share choices across layers."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sglang_hisa.config import check_model, parse
from sglang_hisa.kernels import tuning
from sglang_hisa.launch.common.server import cpu_env
from sglang_hisa.patches import contract, indexer, runtime, scheduler

CASES = {
    "every layer": ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
    "frequency": ({"index_topk_freq": 3}, [0, 1, 4, 7]),
    "frequency after an offset": ({"index_topk_freq": 4, "index_skip_topk_offset": 3}, [0, 1, 2, 6]),
    "pattern": ({"index_topk_pattern": "FSSFSFSS"}, [0, 3, 5]),
    "LongCat": ({"cli_factor": 2}, [0, 2, 4, 6]),
}

BUILD = """
import json, sys
from types import SimpleNamespace
from sglang_hisa.config import check_model, parse
from sglang_hisa.patches import contract, indexer, runtime
found = []
for more in json.loads(sys.argv[1]):
    runtime.start(runtime.Runtime(parse("balanced"), contract.installed_version(), 15))
    config = SimpleNamespace(architectures=["LongcatFlashForCausalLM"], index_topk=2048, **more)
    for layer in range(8):
        made = SimpleNamespace(index_topk=2048, head_dim=128, layer_id=layer)
        indexer.after_init(None, made, config=config)
    found.append(sorted(runtime.current().layers))
print(json.dumps(found))
"""


def test_layers_that_choose_for_themselves():
    """By SGLang's own rule, in a process of its own: importing it needs the shims of a CPU server."""
    argv = [sys.executable, "-c", BUILD, json.dumps([config for config, _ in CASES.values()])]
    done = subprocess.run(argv, env=cpu_env(os.environ, None), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = dict(zip(CASES, json.loads(done.stdout.splitlines()[-1]), strict=True))
    assert found == {name: choosing for name, (_, choosing) in CASES.items()}


@pytest.fixture
def state():
    runtime.start(runtime.Runtime(parse("balanced"), contract.installed_version(), 15))
    return runtime.current()


def refused(**layer):
    """The message that stops a server while it builds a layer."""
    made = SimpleNamespace(**{"index_topk": 2048, "head_dim": 128, "layer_id": 0, **layer})
    with pytest.raises(SystemExit) as stop:
        indexer.after_init(None, made, config=None)
    return str(stop.value)


def test_another_key_width_is_refused(state):
    """No setting helps there: the fix is about the model."""
    message = refused(head_dim=64)
    assert (
        "index_head_dim is 64; HISA's kernels are written for 128\n    fix: serve this model with" in message
    )
    assert message.count("fix: ") == 1 and "Fix: " not in message and "export" not in message
    assert not state.layers


@pytest.mark.parametrize("preset", ["paper", "decode-only"])
def test_budgets_below_the_models_are_refused_with_a_setting_that_fits(state, preset):
    runtime.start(runtime.Runtime(parse(preset), contract.installed_version(), 15))
    message = refused(index_topk=40000, head_dim=64)
    assert not runtime.current().layers
    lines = [line for line in message.splitlines() if line.startswith("    fix: ")]
    budgets = 2 if preset == "paper" else 1  # decode-only leaves prefill to stock DSA
    assert len(lines) == budgets + 1 and "stock DSA" in lines[-1], "each reason with a fix of its own"
    command = lines[0].removeprefix("    fix: ")
    shell = subprocess.run(["sh", "-c", f"{command}; printenv SGLANG_HISA"], capture_output=True, text=True)
    given = parse(shell.stdout)
    assert check_model(given, 40000, 64) == [] and given.preset == preset
    assert (given.prefill_tokens == 0) == (preset == "decode-only") and given.block == parse(preset).block


def test_wrong_kernel_settings_are_refused(state, tmp_path, monkeypatch):
    (tmp_path / "H100.json").write_text('{"coarse_warps": 0}')
    monkeypatch.setattr(tuning, "TUNED", tmp_path)
    monkeypatch.setattr(indexer, "for_device", lambda device: tuning.load("NVIDIA H100"))
    message = refused()
    assert "coarse_warps=0 " in message and "\n    fix: hisa bench tune --apply" in message
    assert not state.layers


def test_a_server_without_an_indexer_is_refused(state):
    for graphs in (False, True):
        (reason,) = scheduler._check_receipt(state, decode_graphs=graphs)
        assert "no DSA indexer was built" in reason.text and reason.fix.startswith(
            "serve this model with stock"
        )


def test_decode_graphs_without_hisa_are_refused_where_there_are_any(state, monkeypatch):
    """A prefill server of a disaggregated pair captures none, and is served."""
    monkeypatch.delenv("SGLANG_HISA_CPU", raising=False)
    state.layers, state.summary_bytes = {0, 1}, 1
    assert scheduler._check_receipt(state, decode_graphs=False) == []
    (reason,) = scheduler._check_receipt(state, decode_graphs=True)
    assert "no captured decode graph runs HISA" in reason.text
    assert "export SGLANG_PLUGINS=hisa;" in reason.fix and "--disable-cuda-graph" in reason.fix
    monkeypatch.setenv("SGLANG_HISA_CPU", "1")
    (reason,) = scheduler._check_receipt(state, decode_graphs=True)
    assert "export SGLANG_PLUGINS=hisa,hisa_cpu;" in reason.fix
    state.graphs.add(4)
    assert scheduler._check_receipt(state, decode_graphs=True) == []


WORKER = """
import multiprocessing, threading, time

def work():
    from sglang_hisa.patches.plugin import refuse
    threading.Thread(target=time.sleep, args=(300,)).start()
    refuse("the test asks for it", ["one", "two"], "nothing")

if __name__ == "__main__":
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join(60)
    print("ended:", worker.exitcode)
    worker.kill()
"""


def test_a_worker_that_refuses_ends_whatever_its_threads_do():
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, timeout=120)
    assert done.stdout == "ended: 1\n"
    assert "refusing to start: the test asks for it\n  - one\n  - two\nFix: nothing" in done.stderr
