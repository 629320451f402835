"""The rehearsal has what a real prefill step has: a layer that is served, its top-k, the longest prompt."""

import json
import os
import subprocess
import sys

import pytest

from sglang_hisa.launch.common.server import cpu_env

SCRIPT = """
import contextlib, json, os, sys
from types import SimpleNamespace
import torch
from sglang.srt.layers.attention.dsa import dsa_indexer
from sglang.srt.layers.attention.dsa.dsa_indexer import Indexer
from sglang.srt.layers.attention.dsa.dsa_topk_backend import TopkTransformMethod
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang_hisa.config import from_mapping
from sglang_hisa.patches import rehearsal, runtime
from sglang_hisa.patches.cpu import topk
from sglang_hisa.summaries import PageSummaries

# SGLang is imported once; a process of its own for each case, as each changes what it likes.
for case in json.loads(sys.argv[1]):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, case
        print(json.dumps("end"), flush=True)
        continue
    break
else:
    sys.exit()
steps, real = [], rehearsal.rehearse
def rehearse(rule, bound, layer, heads, setup, refine, output_of):
    assert refine == case["refine"] and setup.backend == "torch"
    made = (rule, bound, layer, heads, setup, refine, output_of)
    steps.append(7 if refine == "deepgemm" else real(*made))
    form = output_of(torch.zeros(7, dtype=torch.int32))
    facts = {"bound": bound, "heads": heads, "block": rule.block, "physical": form.physical}
    facts["offsets"] = 0 if form.offsets is None else len(form.offsets)
    print(json.dumps({**facts, "served": layer is summaries.layer(2), "steps": steps[-1]}))
    return steps[-1]
rehearsal.rehearse = rehearse
torch.cuda.is_available = lambda: case["gpu"]
torch.cuda.synchronize = lambda: None
torch.cuda.get_device_name = lambda index: "a Hopper GPU"
torch.cuda.get_device_capability = lambda index=None: (9, 0)
def check_split(config, stock, device):
    assert config is state.config and device == torch.device("cpu")
    print(json.dumps({"compared for": [stock.device.processors, stock.device.capability]}))
rehearsal.check_split = check_split
rehearsal.hooks.refine_of = lambda state, q: case["refine"]

config = {"prefill_fraction": 0.25, "block": 64, "refine": "triton", "prefill_tokens": case["tokens"]}
if not case["tokens"]:
    config = {"preset": "decode-only"}
state = runtime.Runtime(from_mapping(config), sglang="test", patches=0)
state.layers = {2}
buffers = [torch.zeros(40 * (i == 2), 8448, dtype=torch.uint8) for i in range(3)]
summaries = PageSummaries(buffers, 0, "torch")
state.pools.add(summaries)
deep_gemm = SimpleNamespace(count=132, get_num_sms=lambda: deep_gemm.count)
dsa_indexer.deep_gemm = deep_gemm
@contextlib.contextmanager
def reserved():
    deep_gemm.count = 131
    yield
    deep_gemm.count = 132
model = torch.nn.Module()
for i in range(3):
    layer = Indexer.__new__(Indexer)
    torch.nn.Module.__init__(layer)
    layer.layer_id, layer.index_topk, layer.n_heads, layer.sm_count = i, 48, 2, 132
    layer.num_init_tokens = layer.num_local_tokens = 0
    layer._with_real_sm_count = reserved
    layer._mask_init_and_local_tokens = lambda logits, lengths: None
    model.add_module(str(i), layer)
def method_of(mode):
    assert mode == ForwardMode.EXTEND
    return TopkTransformMethod[case["form"]]
attention = SimpleNamespace(
    dsa_topk_backend=SimpleNamespace(should_use_topk_v2=lambda: False, topk_func=topk.positions),
    get_topk_transform_method=method_of,
    use_fused_topk=True,
)
if case["form"] == "RAGGED":
    attention = SimpleNamespace(primary=attention)  # two-batch overlap
runner = SimpleNamespace(
    model=model, attn_backend=attention, model_config=SimpleNamespace(context_len=case["context"])
)
rehearsal.rehearse_prefill(state, runner)
"""

CASES = {
    "the pool": {},
    "the model": {"context": 2000},
    "positions with offsets": {"form": "RAGGED"},
    "stock prefill": {"tokens": 0},
    "a CPU": {"gpu": False},
    "DeepGEMM": {"refine": "deepgemm"},
}
USUAL = {"context": 1 << 20, "form": "PAGED", "tokens": 1024, "gpu": True, "refine": "triton"}


@pytest.fixture(scope="module")
def told():
    """What the script said of each case."""
    argv = [sys.executable, "-c", SCRIPT, json.dumps([{**USUAL, **case} for case in CASES.values()])]
    env = {**cpu_env(os.environ, None), "SGLANG_DSA_FUSE_TOPK": "1"}  # the stand-ins turn it off
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ends = [i for i, line in enumerate(lines) if line == "end"]
    assert len(ends) == len(CASES)
    return {name: lines[i + 1 : j] for name, i, j in zip(CASES, [-1, *ends], ends)}


@pytest.mark.parametrize(
    ("case", "bound"), [("the pool", 40 * 64), ("the model", 2000), ("positions with offsets", 40 * 64)]
)
def test_prompts_are_as_long_as_this_server_takes(told, case, bound):
    (found,) = told[case]
    assert found["steps"] > 0
    ragged = case == "positions with offsets"
    form = {"physical": False, "offsets": 7} if ragged else {"physical": True, "offsets": 0}
    of_pool = {"bound": bound, "heads": 2, "block": 64, "served": True, **form}
    assert found == {**of_pool, "steps": found["steps"]}


@pytest.mark.parametrize("case", ["stock prefill", "a CPU"])
def test_nothing_is_rehearsed_where_nothing_is_compiled(told, case):
    assert told[case] == []


def test_deepgemms_split_is_compared_once_for_the_multiprocessors_that_prefill_will_use(told):
    found, rehearsal = told["DeepGEMM"]
    assert found == {"compared for": [131, [9, 0]]} and rehearsal["steps"] == 7
