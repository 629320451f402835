"""SGLang's own DSA attention tests, as its wheel ships them, in a process that HISA has patched.

They hand rows of slots to the attention backend and build no ``Indexer``, so HISA chooses nothing in them:
they show that pools with summaries and the backend still compute what SGLang's reference does and, on a CPU,
that the stand-ins do.
"""

import json
import os
import subprocess
import sys

import pytest

from sglang_hisa.launch.common.server import child_env, cpu_env

SCRIPT = """
import sys
import unittest
from sglang.srt.plugins import load_plugins
load_plugins()
from sglang.test.kits.attention_unittest.attention_methods import dsa_attention as kit
from sglang_hisa.patches import runtime
device, test = sys.argv[1], unittest.TestCase()
for case in kit.make_dsa_sparse_cases("dsa"):
    for fp8 in (False, True):
        before = runtime.current().summary_bytes
        kit.run_dsa_sparse_attention_case(
            test, case, device=device, fp8_kv_cache=fp8, dsa_prefill_backend="flashmla_sparse"
        )
        assert runtime.current().summary_bytes > before, "a pool without summaries"
        print("ran", case.forward_mode.name, fp8)
    if device == "cuda" and case.forward_mode.is_decode():
        kit.run_dsa_sparse_cuda_graph_decode_impl_variant_case(test, case, "flashmla_kv")
        print("ran", case.forward_mode.name, "graph")
"""


def run(device):
    hisa = json.dumps({"preset": "paper"})
    env = cpu_env(os.environ, hisa, fused=True) if device == "cpu" else child_env(os.environ, hisa)
    argv = [sys.executable, "-c", SCRIPT, device]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_attention_kit_on_a_cpu():
    ran = run("cpu")
    for mode in ("EXTEND", "DECODE"):
        assert f"ran {mode} False" in ran and f"ran {mode} True" in ran


@pytest.mark.gpu
def test_attention_kit_on_a_gpu():
    """Passed on an H100 with SGLang 0.5.17 on 2026-11-25; no record is kept."""
    ran = run("cuda")
    assert "ran EXTEND True" in ran and "ran DECODE graph" in ran
