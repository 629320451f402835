"""The rehearsal needs every kernel that a prompt could need, and touches nothing of the server's."""

import random

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from sglang_hisa import PAGE, indexer, kernels
from sglang_hisa.budget import Rule, make_rule
from sglang_hisa.config import from_mapping
from sglang_hisa.indexer import Output, Queries, select
from sglang_hisa.kernels import pick
from sglang_hisa.plan import Rows, Setup, make_prefill_plan
from sglang_hisa.rehearsal import lengths_of, rehearse
from sglang_hisa.segments import of_request
from sglang_hisa.summaries import LayerSummaries
from tests.kernels.conftest import index_cache
from tests.sglang_hisa.test_indexer import TOPK, CpuKernels

HEADS, BOUND = 2, 200 * PAGE + 5


@pytest.fixture
def layer():
    buffer = index_cache(3, torch.device("cpu"))
    keys = torch.zeros(3, 128, dtype=torch.float8_e4m3fn)
    return LayerSummaries(buffer, keys, torch.ones(3))


class Recorder:
    """A kernel that notes what Triton would compile for each launch on an H100, and runs nothing."""

    def __init__(self, kernel, seen):
        kernel = kernel if isinstance(kernel, JITFunction) else JITFunction(kernel.fn, **kernel.kwargs)
        backend = make_backend(GPUTarget("cuda", 90, 32))
        self.binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        self.seen = seen

    def __getitem__(self, grid):
        return self

    def __call__(self, *args, **named):
        args = list(args)
        args[7] = 16  # score_stride: DeepGEMM's rows are aligned, the stand-in's are not
        _, kinds, options = self.binder(*args, **named)
        self.seen.add((str(kinds), str(options)))


@pytest.fixture
def compiled(monkeypatch):
    """The forms of the pick kernel that were launched."""
    seen = set()
    monkeypatch.setattr(pick, "_pick_kernel", Recorder(pick._pick_kernel, seen))
    monkeypatch.setattr(indexer, "can_overlap", lambda device: True)
    real = kernels.pick_pages

    def pick_pages(*args, **more):
        real(*args, **{**more, "backend": "triton"})

    monkeypatch.setattr(kernels, "pick_pages", pick_pages)
    for name in ("coarse_scores", "refine_logits"):
        monkeypatch.setattr(kernels, name, lambda *args, **more: None)
    monkeypatch.setattr(
        CpuKernels, "topk_slots", lambda self, logits, *args: logits.new_empty((len(logits), TOPK))
    )
    return seen


def config(tail):
    budget = {"prefill_tokens": 1024, "prefill_fraction": 0.25, "block": 64, "workspace_mb": 16}
    return from_mapping({**budget, "dense_tail_tokens": tail})


@pytest.mark.parametrize("tail", [0, 300])
def test_no_prompt_needs_another_kernel(layer, compiled, tail):
    """But one within a block of a power of two, or which ends its prompt there."""
    setup = Setup(config(tail), CpuKernels(True), "torch")
    rule = make_rule(setup.config, "prefill", TOPK, 0, 0)
    steps = rehearse(rule, BOUND, layer, HEADS, setup, "triton", lambda rows: Output(True))
    assert steps == 4 * len(list(lengths_of(rule, BOUND))) > 12
    ready, picks = set(compiled), random.Random(0)
    for _ in range(200):
        context = int(64 * 2 ** picks.randint(5, 7) * picks.uniform(0.7, 1.0))
        count = min(picks.choice((1, 40, 256, 700, 5001)), context)
        prompt = context + picks.choice((0, 5000))
        segments = of_request(0, count, context, rule, prompt, tail, setup.config.prefill_group)
        if all(segment.fits for segment in segments):
            continue
        lengths = torch.arange(context - count + 1, context + 1, dtype=torch.int32)
        table = torch.zeros(1, BOUND // PAGE + 1, dtype=torch.int32)
        which = torch.zeros(count, dtype=torch.int32)
        rows = Rows.of_segments(lengths, table, which, segments)
        plan = make_prefill_plan(rows, [context], setup, "triton", segments, heads=HEADS)
        q, weights = torch.zeros(count, HEADS, 128).to(torch.float8_e4m3fn), torch.zeros(count, HEADS)
        select(Queries(q, weights, layer), plan, setup, Output(True))
    assert compiled - ready == set()


@pytest.mark.parametrize("table_topk", [True, False])
def test_nothing_of_the_server_is_written(layer, table_topk):
    before = [x.view(torch.uint8).clone() for x in (layer.index_k, layer.keys, layer.scales)]
    setup = Setup(config(300), CpuKernels(table_topk), "torch")
    args = (Rule(16, 0, 64), 64 * 40, layer, HEADS, setup, "triton")
    rehearse(*args, lambda offsets: Output(False, offsets))
    for was, now in zip(before, (layer.index_k, layer.keys, layer.scales)):
        assert torch.equal(was, now.view(torch.uint8))


def test_lengths_are_those_that_are_pruned():
    assert list(lengths_of(Rule(64, 0, 128), 163840)) == [16384, 32768, 65536, 131072, 163840]
    assert list(lengths_of(Rule(64, 0, 128), 8192)) == []
    assert list(lengths_of(Rule(64, 0, 128), 8193)) == [8193]
