"""DeepGEMM gets as many multiprocessors as in stock: one less in prefill while a pipeline receives."""

import contextlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from sglang_hisa.launch.common.server import cpu_env
from sglang_hisa.patches import stock_kernels
from sglang_hisa.patches.stock_kernels import SglangKernels
from sglang_hisa.schedule import prefill_calls

ALL = 132


class DeepGemm:
    """Notes the multiprocessors of each call."""

    def __init__(self):
        self.count, self.seen = ALL, []

    def get_num_sms(self):
        return self.count

    def set_num_sms(self, count):
        self.count = count

    def fp8_mqa_logits(self, *args, **more):
        self.seen.append(("flat", self.count))
        return torch.zeros(2, 4)

    def fp8_paged_mqa_logits(self, *args, **more):
        self.seen.append(("paged", self.count))
        return torch.zeros(2, 4)

    def get_paged_mqa_logits_metadata(self, lengths, page, processors):
        self.seen.append(("schedule", self.count))
        return processors


@pytest.fixture
def deep_gemm():
    return DeepGemm()


@pytest.fixture(params=["by name", "resolved"])
def dsa(request, monkeypatch, deep_gemm):
    """``dsa_indexer`` of 0.5.17, and of 0.5.23, whose ``resolve_num_sms`` remembers its first answer."""
    module = SimpleNamespace(deep_gemm=deep_gemm)
    if request.param == "resolved":
        module.resolve_num_sms = lambda: ALL
        module.resolve_fp8_mqa_logits_fn = lambda: deep_gemm.fp8_mqa_logits
        module.resolve_fp8_paged_mqa_logits_fn = lambda: deep_gemm.fp8_paged_mqa_logits
        module.resolve_paged_mqa_logits_metadata_fn = lambda: deep_gemm.get_paged_mqa_logits_metadata
    monkeypatch.setattr(stock_kernels, "_dsa", lambda: module)
    return module


def kernels_of(deep_gemm, **how):
    @contextlib.contextmanager
    def reserved():
        before = deep_gemm.get_num_sms()
        deep_gemm.set_num_sms(ALL - 1)
        yield
        deep_gemm.set_num_sms(before)

    backend = SimpleNamespace(should_use_topk_v2=lambda: True)
    layer = SimpleNamespace(index_topk=64, num_init_tokens=0, num_local_tokens=0, sm_count=ALL)
    layer._with_real_sm_count = reserved
    return SglangKernels(layer, SimpleNamespace(topk_backend=backend), **how)


@pytest.mark.parametrize("prefill,count", [(False, ALL), (True, ALL - 1)])
def test_every_call_of_deepgemm_has_the_phases_multiprocessors(dsa, deep_gemm, prefill, count):
    stock = kernels_of(deep_gemm, **({"prefill": True} if prefill else {}))
    q, lengths = torch.zeros(2, 4, 128), torch.tensor([[700], [300]], dtype=torch.int32)
    index_k, weights, table = torch.zeros(3, 8448), torch.zeros(2, 4), torch.zeros(2, 2).int()
    stock.flat_logits(q, q[0], q[0, 0], weights, lengths[:, 0], lengths[:, 0], 4)
    stock.paged_logits(q, index_k, weights, lengths, table, None, 128)
    assert stock.schedule(SimpleNamespace(is_cuda=True)) == count == stock.device.processors
    assert deep_gemm.seen == [("flat", count), ("paged", count), ("schedule", count)]
    (call,) = prefill_calls(lengths, stock)
    assert call.split.shape == (count + 1, 2), "DeepGEMM: schedule_meta_size == num_sms + 1"
    assert deep_gemm.count == ALL


class Newer:
    """The scores of sgl-deep-gemm 0.2.5, with its parameters: no ``clean_logits``, and ``max_seqlen_k``."""

    @staticmethod
    def paged(q, kv_cache, weights, context_lens, block_table, schedule_meta, max_context_len, indices=None):
        return torch.full((2, 4), float(max_context_len))

    @staticmethod
    def flat(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, max_seqlen_k, schedule_meta=None):
        return torch.full((2, 4), float(max_seqlen_k))


class Older:
    """Those of 0.1.5 to 0.2.3, where ``clean_logits`` is true by default in some."""

    @staticmethod
    def paged(q, pages, weights, lengths, table, schedule, longest, clean_logits=True, indices=None):
        assert clean_logits is False
        return torch.full((2, 4), float(longest))

    @staticmethod
    def flat(q, kv, weights, ks, ke, clean_logits=True, max_seqlen_k=0):
        assert clean_logits is False
        return torch.full((2, 4), float(max_seqlen_k))


@pytest.mark.parametrize("api", [Newer, Older])
@pytest.mark.parametrize("resolved", [False, True])
def test_both_apis_of_deepgemm_are_called_as_sglang_finds_them(api, resolved, monkeypatch, deep_gemm):
    """By the resolver where SGLang has one, whatever DeepGEMM itself has under the older name."""
    wrong = SimpleNamespace(fp8_mqa_logits=None, fp8_paged_mqa_logits=None)
    right = SimpleNamespace(fp8_mqa_logits=api.flat, fp8_paged_mqa_logits=api.paged)
    module = SimpleNamespace(deep_gemm=wrong if resolved else right)
    if resolved:
        module.resolve_fp8_mqa_logits_fn = lambda: api.flat
        module.resolve_fp8_paged_mqa_logits_fn = lambda: api.paged
    monkeypatch.setattr(stock_kernels, "_dsa", lambda: module)
    stock = kernels_of(deep_gemm)
    q, lengths = torch.zeros(2, 4, 128), torch.tensor([[700], [300]], dtype=torch.int32)
    index_k, weights, table = torch.zeros(3, 8448), torch.zeros(2, 4), torch.zeros(2, 2).int()
    assert stock.paged_logits(q, index_k, weights, lengths, table, None, 128).unique().tolist() == [128]
    flat = stock.flat_logits(q, q[0], q[0, 0], weights, lengths[:, 0], lengths[:, 0], 77)
    assert flat.unique().tolist() == [77]


def test_a_builtin_that_tells_no_signature_is_an_older_one():
    class Builtin:
        __signature__ = "none"

        def __call__(self, *args):
            pass

    assert stock_kernels._cleans(Builtin()) == {"clean_logits": False}


def test_without_deepgemm_the_indexers_count_is_taken(monkeypatch, deep_gemm):
    """0.5.23 goes on with PyTorch logits and keeps the ImportError."""
    for module in (SimpleNamespace(deep_gemm=ImportError()), SimpleNamespace()):
        monkeypatch.setattr(stock_kernels, "_dsa", lambda module=module: module)
        assert kernels_of(deep_gemm, prefill=True).device.processors == ALL


def test_the_device_is_that_of_the_gpu(dsa, deep_gemm, monkeypatch):
    assert kernels_of(deep_gemm).device.capability is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA B200")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (10, 0))
    device = kernels_of(deep_gemm).device
    assert device.capability == (10, 0) and not device.hopper


STAGE = """
import json, sys
from types import SimpleNamespace
from sglang.srt.layers.attention.dsa import dsa_indexer
from sglang.srt.layers.deep_gemm_wrapper import entrypoint
from sglang_hisa.patches.stock_kernels import SglangKernels

deep_gemm = SimpleNamespace(count=132, get_num_sms=lambda: deep_gemm.count)
deep_gemm.set_num_sms = lambda count: setattr(deep_gemm, "count", count)
dsa_indexer.deep_gemm = entrypoint.deep_gemm = deep_gemm
backend = SimpleNamespace(should_use_topk_v2=lambda: True)
found = []
for jit in (True, False):
    entrypoint.ENABLE_JIT_DEEPGEMM = jit
    for receives in (True, False):
        layer = dsa_indexer.Indexer.__new__(dsa_indexer.Indexer)
        layer.__dict__.update(index_topk=64, num_init_tokens=0, num_local_tokens=0, sm_count=132)
        layer.__dict__["logits_with_pp_recv"] = receives
        metadata = SimpleNamespace(topk_backend=backend)
        phases = [SglangKernels(layer, metadata, prefill=prefill) for prefill in (True, False)]
        found.append([stock.device.processors for stock in phases] + [deep_gemm.count])
print(json.dumps(found))
"""


def test_a_stage_of_a_pipeline_leaves_one_to_its_receive():
    """By SGLang's own ``_with_real_sm_count``; without its DeepGEMM wrapper that changes nothing."""
    argv = [sys.executable, "-c", STAGE]
    done = subprocess.run(argv, env=cpu_env(os.environ, None), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == [[131, 132, 132], [132] * 3, [132] * 3, [132] * 3]
