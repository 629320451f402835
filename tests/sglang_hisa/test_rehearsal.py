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
from sglang_hisa.kernels import pick, refine, route
from sglang_hisa.plan import Rows, Setup, make_prefill_plan
from sglang_hisa.rehearsal import lengths_of, rehearse
from sglang_hisa.segments import of_request
from sglang_hisa.summaries import LayerSummaries
from tests.kernels.conftest import index_cache
from tests.sglang_hisa.test_indexer import TOPK, CpuKernels

HEADS, BOUND = 8, 200 * PAGE + 5


@pytest.fixture
def layer():
    buffer = index_cache(3, torch.device("cpu"))
    keys = torch.zeros(3, 128, dtype=torch.float8_e4m3fn)
    return LayerSummaries(buffer, keys, torch.ones(3))


class Recorder:
    """A kernel that notes what Triton would compile for each launch on an H100, and runs nothing."""

    def __init__(self, kernel, seen):
        self.name = kernel.fn.__name__
        kernel = kernel if isinstance(kernel, JITFunction) else JITFunction(kernel.fn, **kernel.kwargs)
        backend = make_backend(GPUTarget("cuda", 90, 32))
        self.binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        self.seen = seen

    def __getitem__(self, grid):
        return self

    def __call__(self, *args, **named):
        args = list(args)
        if self.name == "_pick_kernel":
            args[7] = 16  # score_stride: DeepGEMM's rows are aligned, the stand-in's are not
        _, kinds, options = self.binder(*args, **named)
        self.seen.add((self.name, str(kinds), str(options)))


@pytest.fixture
def compiled(monkeypatch):
    """The forms that were launched of our kernels in a prefill that DeepGEMM scores for all heads."""
    seen = set()
    for module, name in ((pick, "_pick_kernel"), (refine, "_refine_kernel"), (route, "_route_kernel")):
        monkeypatch.setattr(module, name, Recorder(getattr(module, name), seen))
    monkeypatch.setattr(indexer, "can_overlap", lambda device: True)

    def on_a_gpu(real):
        return lambda *args, **more: real(*args, **{**more, "backend": "triton"})

    monkeypatch.setattr(kernels, "pick_pages", on_a_gpu(kernels.pick_pages))
    monkeypatch.setattr(kernels, "refine_logits", on_a_gpu(kernels.refine_logits))
    route_heads = kernels.route_heads
    monkeypatch.setattr(kernels, "route_heads", lambda q, w, kept, _: route_heads(q, w, kept, "triton"))
    monkeypatch.setattr(kernels, "coarse_scores", lambda *args, **more: None)
    monkeypatch.setattr(
        indexer, "paged_logits", lambda stock, calls, q, *args, width, **more: q.new_empty(len(q), width)
    )
    monkeypatch.setattr(
        CpuKernels, "topk_slots", lambda self, logits, *args: logits.new_empty((len(logits), TOPK))
    )
    return seen


def config(tail):
    budget = {"prefill_tokens": 1024, "prefill_fraction": 0.25, "block": 64, "workspace_mb": 16}
    return from_mapping({**budget, "dense_tail_tokens": tail})


@pytest.mark.parametrize("refine", ["deepgemm", "triton"])
@pytest.mark.parametrize("tail", [0, 300])
def test_no_prompt_needs_another_kernel(layer, compiled, tail, refine):
    """But one within a block of a power of two, or which ends its prompt there."""
    setup = Setup(config(tail), CpuKernels(True), "torch")
    rule = make_rule(setup.config, "prefill", TOPK, 0, 0)
    steps = rehearse(rule, BOUND, layer, HEADS, setup, refine, lambda rows: Output(True))
    assert steps == 4 * len(list(lengths_of(rule, BOUND))) > 12
    assert {name for name, *_ in compiled} == {"_pick_kernel", "_refine_kernel", "_route_kernel"}
    ready, picks = set(compiled), random.Random(0)
    for _ in range(120):
        context = min(int(64 * 2 ** picks.randint(5, 8) * picks.uniform(0.7, 1.0)), BOUND)
        count = min(picks.choice((1, 3, 40, 256, 700, 5001)), context)
        prompt = context + picks.choice((0, 5000))
        segments = of_request(0, count, context, rule, prompt, tail, setup.config.prefill_group)
        if all(segment.fits for segment in segments):
            continue
        lengths = torch.arange(context - count + 1, context + 1, dtype=torch.int32)
        table = torch.zeros(1, BOUND // PAGE + 1, dtype=torch.int32)
        which = torch.zeros(count, dtype=torch.int32)
        rows = Rows.of_segments(lengths, table, which, segments)
        plan = make_prefill_plan(rows, [context], setup, refine, segments, heads=HEADS)
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
