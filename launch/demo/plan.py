"""What the demo serves and asks: one plan for a CPU, one for a GPU."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_hisa.config import Config, environment
from sglang_hisa.launch.common import models, server


@dataclass(frozen=True)
class Request:
    """A prompt of token ids, and how it relates to the earlier ones."""

    name: str
    ids: list[int]


@dataclass(frozen=True)
class Plan:
    """Everything that both arms of a demo share, and the settings of the HISA arm."""

    title: str
    make_model: Callable[[Path], Path]
    layers: int
    topk: int
    flags: Callable[[Path], list[str]]
    """SGLang's flags for a model folder."""
    env: Callable[[str | None], dict[str, str]]
    """The server's environment for a value of SGLANG_HISA (None: stock)."""
    config: Config
    requests: tuple[Request, ...]
    new_tokens: int
    edges: tuple[int, ...]
    """Context lengths, in tokens, between which the choices are summed up."""

    def sampling(self) -> dict[str, Any]:
        """Sampling parameters that pin the answer, so that both arms decode the same text."""
        pinned = {str(self.requests[0].ids[0]): 1e4}
        return {"max_new_tokens": self.new_tokens, "temperature": 0, "ignore_eos": True, "logit_bias": pinned}


_CHOICES = ("--enable-return-indexer-topk", "--disable-overlap-schedule")
"""With overlap, SGLang 0.5.17 hands out a view of the captured choices that the next step overwrites;
0.5.23 clones it (srt/state_capturer/base.py, on_forward_end)."""


def make_requests(lengths: tuple[int, int, int], vocabulary: int, seed: int = 0) -> tuple[Request, ...]:
    """Prompts of three lengths in tokens, and two that find a part of them in the radix cache.

    A prompt is a run of passages of about a page, each made of three tokens, as text about one subject
    repeats its words. In uniformly random tokens all pages would be alike, with nothing to prefer.
    """
    draw = random.Random(seed)

    def text(length: int) -> list[int]:
        ids: list[int] = []
        while len(ids) < length:
            words = [draw.randrange(3, vocabulary) for _ in range(3)]
            ids += [draw.choice(words) for _ in range(draw.randrange(32, 96))]
        return ids[:length]

    short, middle, long = (text(length) for length in lengths)
    return (
        Request("short", short),
        Request("middle", middle),
        Request("middle again", middle),
        Request("long", long),
        Request("long, new end", long[: len(long) * 2 // 3] + text(len(long) // 3)),
    )


def fixed_budget(tokens: int) -> Config:
    """``tokens`` candidates for every row, also in the last prefill chunk and in decode steps of few short
    rows, so that HISA has to choose."""
    return Config(
        decode_tokens=tokens,
        decode_fraction=0.0,
        prefill_tokens=tokens,
        prefill_fraction=0.0,
        prefill_heads=1.0,  # in random weights no head matters more than another
        prefill_group=2,
        dense_tail_tokens=0,
        stock_decode_graphs=False,
    )


def _cpu_env(hisa: str | None) -> dict[str, str]:
    """One thread: more do not speed up so small a model, and on busy cores their spinning costs minutes."""
    return {**server.cpu_env(environment(), hisa), "OMP_NUM_THREADS": "1"}


def cpu_plan() -> Plan:
    """A tiny random DeepSeek-V3.2 (3 layers, index_topk 64) whose rows keep 256 tokens."""
    budget = 256
    return Plan(
        title="a tiny random DeepSeek-V3.2 on the CPU: real SGLang, torch stand-ins for its CUDA kernels",
        make_model=models.make_tiny,
        layers=3,
        topk=64,
        flags=lambda model: [*server.cpu_flags(model), "--chunked-prefill-size", "512", *_CHOICES],
        env=_cpu_env,
        config=fixed_budget(budget),
        requests=make_requests((200, 700, 1500), vocabulary=250),
        new_tokens=16,
        edges=(0, budget, 512, 1024, 1536),
    )


def _gpu_flags(model: Path) -> list[str]:
    return [
        *("--model-path", str(model), "--load-format", "dummy", "--context-length", "16384"),
        *("--dsa-prefill-backend", "flashmla_sparse", "--dsa-decode-backend", "flashmla_sparse"),
        *("--grammar-backend", "none", "--mem-fraction-static", "0.85", "--max-total-tokens", "32768"),
        *("--max-running-requests", "8", "--chunked-prefill-size", "4096", "--skip-server-warmup"),
        *_CHOICES,
    ]


def _gpu_env(hisa: str | None) -> dict[str, str]:
    """Unfused, top-k gives positions in the request, which two servers share; fused, KV slots.

    The threshold sends short prompts through sparse attention as well.
    """
    return server.child_env(
        environment(), hisa, SGLANG_DSA_FUSE_TOPK="0", SGLANG_DSA_PREFILL_DENSE_ATTN_KV_LEN_THRESHOLD="0"
    )


def gpu_plan() -> Plan:
    """Four full-width layers of DeepSeek-V3.2 with random weights on the real kernels.

    Answers carry each row's choice, 32 KiB a token, which is why the prompts are not longer.
    """
    budget = 4096
    return Plan(
        title="4 layers of DeepSeek-V3.2 with dummy weights on the GPU",
        make_model=lambda out: models.make_slice("v32-4l", out),
        layers=4,
        topk=2048,
        flags=_gpu_flags,
        env=_gpu_env,
        config=fixed_budget(budget),
        requests=make_requests((3000, 6000, 8100), vocabulary=500),
        new_tokens=16,
        edges=(0, budget, 6144, 8192),
    )
