"""The record of `python -m sglang_hisa.launch.bench.plan`."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_hisa.launch.common import record


@dataclass(frozen=True, kw_only=True)
class PlanRow(record.Row):
    """One way to do what a step does beside its layers' choices. Times are medians in µs."""

    work: str
    """``plan`` of a decode step with its counts, ``planners`` of stock kernels alone, or ``seal`` of an
    extend step that is stock DSA's."""
    arm: str
    """``torch`` or ``triton``; of seals ``each``, a launch a layer, or ``once``."""
    rows: int
    """Of a decode step; of seals, tokens that were stored."""
    refine: str = ""
    """Kernel of the token scores that the plan is for."""
    layers: int = 1
    launches: float | None = None
    """Nodes of the captured graph for one of them; None where CUDA did not tell."""
    us: float | None = None
    p20_us: float | None = None
    p80_us: float | None = None
    host_us: float | None = None
    """Python's time to launch it without a graph."""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class PlanRecord(record.Record):
    """All that were measured."""

    seconds: float = 0
    rows: tuple[PlanRow, ...] = ()
