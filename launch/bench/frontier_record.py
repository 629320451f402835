"""The record of `python -m sglang_hisa.launch.bench.frontier`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sglang_hisa.launch.common import record


@dataclass(frozen=True, kw_only=True)
class FrontierRow(record.Row):
    """The stages of the stock layer, or a point of the frontier: its fields, times in µs, or its error."""

    context: int
    rows: int
    arm: str = ""
    """``stock``, or empty."""
    batch: str = ""
    all_tokens: bool = False
    tokens: int = 0
    heads: int = 0
    group: int = 1
    block: int = 64
    refine: str = ""
    coarse_heads: int = 0
    workspace_mb: int = 0
    warps: int = 0
    stages: int = 0
    pages: int = 0
    floor_us: dict[str, float] = field(default_factory=dict)
    us: float | None = None
    p20_us: float | None = None
    p80_us: float | None = None
    stock_us: float | None = None
    speedup: float | None = None
    stage_us: dict[str, Any] = field(default_factory=dict)
    """An error in place of a time that could not be taken."""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class FrontierRecord(record.Record):
    """All points that were measured."""

    kind: str = "hisa-frontier"
    heads: int = 0
    """Index heads of the model."""
    rounds: int = 0
    seconds: float = 0
    left_out: tuple[str, ...] = ()
    """Batches that time did not allow, or that failed as a whole."""
    rows: tuple[FrontierRow, ...] = ()
