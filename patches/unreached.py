"""Ways to run a model with SGLang that load no plugins: ``SGLANG_HISA`` does not reach them.

They build SGLang's model runner or scheduler in a process that never calls ``load_plugins``, so they run
stock DSA and nothing of ours is there to refuse. A test compares the list with the source of SGLang.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RAY = "--use-ray"


@dataclass(frozen=True)
class Unreached:
    """One way to run a model that HISA does not reach."""

    typed: str
    """What a person types."""
    module: str
    """Source file, below ``sglang``, that builds the runner or the scheduler."""
    instead: str
    """What measures or serves HISA."""


_ACTOR = "srt/ray/scheduler_actor.py"

UNREACHED: tuple[Unreached, ...] = (
    Unreached(
        "python -m sglang.benchmark.one_batch",
        "benchmark/one_batch.py",
        "python -m sglang.benchmark.one_batch_server",
    ),
    Unreached(
        "python -m sglang.bench_one_batch",
        "bench_one_batch.py",
        "python -m sglang.bench_one_batch_server",
    ),
    Unreached(f"python -m sglang.launch_server {RAY}", _ACTOR, "python -m sglang.launch_server"),
    Unreached("sglang.srt.ray.engine.RayEngine", _ACTOR, "sglang.Engine"),
)


def unreached(root: Path | None) -> list[Unreached]:
    """Those of the SGLang in ``root``; all where there is none."""
    return [row for row in UNREACHED if root is None or (root / row.module).is_file()]


def asks_for_ray(flags: Sequence[str]) -> bool:
    """Whether a server with these flags runs its schedulers as Ray actors."""
    return RAY in flags
