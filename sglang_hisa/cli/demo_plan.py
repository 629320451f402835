"""What the demo serves and asks: one plan for a CPU, one for a GPU."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sglang_hisa.config import Config


@dataclass(frozen=True)
class Request:
    """A prompt of token ids, and how it relates to the earlier ones."""

    name: str
    ids: list[int]


@dataclass(frozen=True)
class Plan:
    """Everything that both arms of a demo share, and the settings of the HISA arm."""

    title: str
    cpu: bool
    make_model: Callable[[Path], object]
    layers: int
    topk: int
    flags: tuple[str, ...]
    env: dict[str, str]
    config: Config
    requests: tuple[Request, ...]
    new_tokens: int
    edges: tuple[int, ...]
    """Context lengths, in tokens, between which the choices are summed up."""

    @property
    def budgets(self) -> dict[str, int]:
        """Candidate tokens of a row, by phase."""
        return {"prefill": self.config.prefill_tokens, "decode": self.config.decode_tokens}


_CHOICES = ("--enable-return-indexer-topk",)
_POSITIONS = {"SGLANG_DSA_FUSE_TOPK": "0"}
"""Unfused, the indexer returns positions in the request, which two servers share; fused, KV slots."""


def make_requests(lengths: tuple[int, int, int], vocabulary: int, seed: int = 0) -> tuple[Request, ...]:
    """Random prompts of three lengths in tokens, and two that find part of them in the radix cache."""
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, vocabulary) for _ in range(count)]

    short, middle, long = (ids(length) for length in lengths)
    return (
        Request("short", short),
        Request("middle", middle),
        Request("middle again", middle),
        Request("long", long),
        Request("long, other end", long[: len(long) * 2 // 3] + ids(len(long) // 3)),
    )


def fixed_budget(tokens: int) -> Config:
    """``tokens`` candidates for every row, in decode and in every prefill chunk, so that HISA has to choose."""
    return Config(
        decode_tokens=tokens,
        decode_fraction=0.0,
        prefill_tokens=tokens,
        prefill_fraction=0.0,
        dense_last_chunk=False,
    )


def cpu_plan() -> Plan:
    """A tiny random DeepSeek-V3.2 (3 layers, index_topk 64) whose rows keep 256 tokens."""
    from sglang_hisa import models

    budget = 256
    return Plan(
        title="tiny random DeepSeek-V3.2 on the CPU: real SGLang, torch stand-ins for the CUDA kernels",
        cpu=True,
        make_model=models.tiny,
        layers=3,
        topk=64,
        flags=_CHOICES,
        env=_POSITIONS,
        config=fixed_budget(budget),
        requests=make_requests((200, 700, 1500), vocabulary=250),
        new_tokens=8,
        edges=(0, budget, 512, 1024, 1536),
    )


def gpu_plan() -> Plan:
    """Four full-width layers of DeepSeek-V3.2 with random weights on the real kernels."""
    from sglang_hisa import models

    budget = 4096
    return Plan(
        title="4 layers of DeepSeek-V3.2 with dummy weights on the GPU",
        cpu=False,
        make_model=lambda out: models.slice_("v32-4l", out, context=32768),
        layers=4,
        topk=2048,
        flags=(
            *("--load-format", "dummy", "--trust-remote-code", "--grammar-backend", "none"),
            *("--dsa-prefill-backend", "flashmla_sparse", "--dsa-decode-backend", "flashmla_sparse"),
            *("--max-total-tokens", "32768", "--max-running-requests", "8", "--cuda-graph-max-bs", "8"),
            *_CHOICES,
        ),
        # The threshold sends every prompt through sparse attention; the answers carry each row's choice
        # (64 KiB a token here), which is why the prompts are not longer.
        env={**_POSITIONS, "SGLANG_DSA_PREFILL_DENSE_ATTN_KV_LEN_THRESHOLD": "0"},
        config=fixed_budget(budget),
        requests=make_requests((3000, 6000, 8100), vocabulary=100_000),
        new_tokens=16,
        edges=(0, budget, 6144, 8192),
    )


def describe(config: Config) -> str:
    """Settings that differ from the default preset, for the tables."""
    return ", ".join(
        f"{field.name} {getattr(config, field.name)}"
        for field in dataclasses.fields(Config)
        if getattr(config, field.name) != field.default
    )
