"""The cases: what each serves, with which flags, and which probes it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sglang_hisa.launch.common import models
from sglang_hisa.patches.releases import NEWEST, RELEASES, since


@dataclass(frozen=True)
class Case:
    """One feature.

    Args:
        shows: what it shows, for a reader of the record.
        flags: SGLang's, beside those of every case.
        model: writes the model into a folder.
        tiny: arguments of ``make_tiny`` for a run on a CPU; None: the case needs a GPU.
        gpus: how many it needs.
        env: environment variables of both servers.
        hisa: settings beside those of every case.
        extra: probes of :mod:`.probes` beside those of every case.
        context: longest prompt, in tokens, if longer than usual.
        default_graphs: prefill graphs as SGLang has them by default. They take half a minute and gigabytes of
            each server: other cases have none unless their flags name a backend.
        canary: "full", or "sample" where times are taken: checking a million tokens' summaries takes longer
            than choosing among them.
        adapter: the servers have a LoRA adapter, ``ADAPTER``, of the model's index gates.
        versions: releases of SGLang that have it.
    """

    shows: str
    flags: tuple[str, ...] = ()
    model: Callable[[Path], Path] = models.make_small
    tiny: Mapping[str, Any] | None = field(default_factory=dict)
    gpus: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    hisa: Mapping[str, Any] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    context: int = 0
    default_graphs: bool = False
    canary: str = "full"
    adapter: bool = False
    versions: tuple[str, ...] = RELEASES


M = 1 << 20
_FP8 = ("--kv-cache-dtype", "fp8_e4m3", "--dsa-decode-backend", "flashmla_kv")
DRAFTS = (
    *("--speculative-algorithm", "EAGLE", "--speculative-num-steps", "3"),
    *("--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", "4"),
)
# The fused all-reduce may use NVLink multicast, which not every machine allows.
NO_MULTICAST = "--enforce-disable-flashinfer-allreduce-fusion"
_SHARED_DRAFTS = {"index_share_for_mtp_iteration": True}
PREFILL_GRAPH = "--cuda-graph-backend-prefill"
ADAPTER = "gates"
"""Name of the adapter that servers of a case with one have."""
_HICACHE = ("--enable-hierarchical-cache", "--hicache-ratio", "4")
_SHARED: Mapping[str, Any] = {"family": "glm5", "index_topk_freq": 2}


def tp(gpus: int) -> tuple[str, ...]:
    """Tensor parallelism over so many GPUs."""
    return ("--tp", str(gpus), NO_MULTICAST) if gpus > 1 else ()


def dp(gpus: int) -> tuple[str, ...]:
    """DP attention: each GPU serves requests of its own."""
    return (*tp(gpus), "--enable-dp-attention", "--dp", str(gpus))


def several(gpus: int) -> dict[str, Case]:
    """Cases of two GPUs or more; none of one."""
    if gpus < 2:
        return {}
    return {
        f"tp{gpus}": Case(f"{gpus} tensor parallel ranks", tp(gpus), gpus=gpus),
        f"tp{gpus}-broadcast": Case(
            f"{gpus} ranks, rank 0's choice broadcast",
            tp(gpus),
            gpus=gpus,
            env={"SGLANG_DSA_TOPK_BROADCAST": "1"},
        ),
        f"dp{gpus}": Case(
            f"{gpus} ranks, DP attention, mixed chunks",
            (*dp(gpus), "--enable-mixed-chunk"),
            gpus=gpus,
            extra=("idle",),
        ),
        f"dp{gpus}-mtp": Case(
            "DP attention with speculative decoding",
            (*dp(gpus), *DRAFTS),
            model=partial(models.make_small, draft=True),
            gpus=gpus,
            tiny={"draft": True},
            # SGLang's default on a GPU. Its unfused form does not take draft rows padded to another rank's.
            env={"SGLANG_DSA_FUSE_TOPK": "1"},
            extra=("idle",),
        ),
        f"pp{gpus}": Case(
            f"{gpus} pipeline stages",
            ("--pp-size", str(gpus)),
            model=partial(models.make_small, layers=gpus),
            tiny=None,
            gpus=gpus,
        ),
    }


CASES: dict[str, Case] = {
    "plain": Case("bf16 KV, decode graphs, overlap schedule", hisa={"stock_decode_graphs": True}),
    "dense-tail": Case(
        "the last tokens of a prompt keep everything; audit", hisa={"dense_tail_tokens": 301, "audit": 0.1}
    ),
    "windows": Case("wide sink and local windows", hisa={"sink_tokens": 130, "local_tokens": 300}),
    "glm5": Case(
        "GLM-5: 32 index heads, fused norm-rope-store",
        model=partial(models.make_small, family="glm5", index_heads=32),
        tiny={"family": "glm5"},
    ),
    "shared-layers": Case(
        "GLM-5.2: layers that reuse a choice",
        model=partial(models.make_small, index_heads=32, layers=4, **_SHARED),
        tiny={**_SHARED, "layers": 4},
    ),
    "keyless-layers": Case(
        "GLM-5.2: layers that reuse a choice have no index keys",
        model=partial(models.make_small, index_heads=32, layers=5, **_SHARED),
        tiny={**_SHARED, "layers": 5},
        extra=("keyless",),
        versions=since("0.5.18"),
    ),
    "keyless-hicache": Case(
        "GLM-5.2: pages back from the host beside layers without index keys",
        _HICACHE,
        model=partial(models.make_small, index_heads=32, layers=5, **_SHARED),
        tiny={**_SHARED, "layers": 5},
        extra=("keyless", "evicted"),
        versions=since("0.5.18"),
    ),
    "lora": Case(
        "LoRA on the index gates, `weights_proj`",
        ("--enable-lora", "--lora-backend", "triton"),
        extra=("adapter",),
        adapter=True,
        versions=(NEWEST,),
    ),
    "fp8-kv": Case("fp8 KV: RAGGED prefill, FlashMLA KV decode", _FP8, tiny=None),
    "fp8-kv-paged": Case(
        "fp8 KV: FlashMLA KV in prefill too",
        (*_FP8, "--dsa-prefill-backend", "flashmla_kv"),
        tiny=None,
    ),
    "fa3": Case("FlashAttention-3 decode", ("--dsa-decode-backend", "fa3"), tiny=None),
    "no-overlap": Case(
        "mixed chunked prefill, no overlap schedule", ("--enable-mixed-chunk", "--disable-overlap-schedule")
    ),
    "torch-topk": Case(
        "top-k of torch",
        ("--dsa-topk-backend", "torch"),
        env={"SGLANG_DSA_FUSE_TOPK": "0"},  # it has no fused form; stock ends at start
    ),
    "flashinfer-topk": Case(
        "top-k of FlashInfer, deterministic",
        ("--dsa-topk-backend", "flashinfer"),
        tiny=None,
        env={"SGLANG_DSA_TOPK_FLASHINFER_DETERMINISTIC": "1"},
    ),
    "prefill-breakable": Case("breakable prefill graphs", (PREFILL_GRAPH, "breakable"), tiny=None),
    "prefill-piecewise": Case(
        "piecewise prefill graphs", (PREFILL_GRAPH, "tc_piecewise"), tiny=None, versions=RELEASES[:-2]
    ),
    "mtp": Case(
        "speculative decoding (EAGLE chain), graphs of verify and draft steps",
        DRAFTS,
        model=partial(models.make_small, draft=True),
        tiny={"draft": True},
    ),
    "mtp-fp8": Case(
        "speculative decoding over an fp8 KV cache",
        (*DRAFTS, *_FP8),
        model=partial(models.make_small, draft=True),
        tiny=None,
    ),
    "glm5-mtp": Case(
        "GLM-5: draft steps that reuse the choice of the step before them",
        DRAFTS,
        model=partial(models.make_small, family="glm5", index_heads=32, draft=True, more=_SHARED_DRAFTS),
        tiny={"family": "glm5", "layers": 2, "draft": True, "more": _SHARED_DRAFTS},
    ),
    "hicache": Case(
        "pages back from the host",
        _HICACHE,
        extra=("evicted",),
    ),
    "sleep": Case(
        "memory saver: release and resume", ("--enable-memory-saver",), tiny=None, extra=("sleep",)
    ),
    "1m": Case(
        "a context of a million tokens",
        model=partial(models.make_small, context=M),
        tiny=None,
        extra=("long",),
        context=M - 256,
        canary="sample",
    ),
    **several(2),
}


def of(gpus: int) -> dict[str, Case]:
    """The cases that run on so many GPUs."""
    return {name: case for name, case in {**CASES, **several(gpus)}.items() if case.gpus == gpus}
