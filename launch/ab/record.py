"""The record of `hisa ab`, as its readers see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_hisa.launch.ab.plan import Cell
from sglang_hisa.launch.common import record
from sglang_hisa.launch.common.receipts import ArmFacts


@dataclass(frozen=True)
class KeptPlan:
    """Arms by name; the baseline is one of them."""

    arms: tuple[str, ...]
    baseline: str
    rounds: int
    cells: tuple[Cell, ...]

    @property
    def others(self) -> tuple[str, ...]:
        """Arms that are compared with the baseline."""
        return tuple(arm for arm in self.arms if arm != self.baseline)


@dataclass(frozen=True)
class Measurement:
    """One load on one arm. Times in seconds: TTFT of each request, and every gap between two tokens."""

    arm: str
    round: int
    cell: int
    ttft_s: tuple[float, ...]
    itl_s: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """One arm against the baseline in one cell and metric; None where too little was measured."""

    arm: str
    cell: int
    metric: str
    baseline_median: float | None = None
    arm_median: float | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class Stats:
    """See :func:`sglang_hisa.launch.ab.stats.compute`."""

    comparisons: tuple[Comparison, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AbRecord(record.Record):
    """What was planned, what was measured, and what follows from it."""

    model: str
    complete: bool
    refusals: tuple[str, ...]
    plan: KeptPlan
    measurements: tuple[Measurement, ...]
    arms: dict[str, ArmFacts] = field(default_factory=dict)
    stats: Stats = field(default_factory=Stats)

    def found(self, arm: str, cell: int, metric: str) -> Comparison:
        """Raises ``StopIteration`` where the record has no such comparison."""
        return next(c for c in self.stats.comparisons if (c.arm, c.cell, c.metric) == (arm, cell, metric))
