"""The record of `hisa eval`, as its readers see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_hisa.launch.common import record
from sglang_hisa.launch.common.receipts import ArmFacts


@dataclass(frozen=True, kw_only=True)
class Accuracy(record.Row):
    """Answers of one arm to one task at one length; ``lost`` and ``won`` against the baseline."""

    arm: str
    task: str
    context: int
    accuracy: float
    n: int
    ci_low: float
    ci_high: float
    lost: int
    won: int
    p: float

    @property
    def text(self) -> str:
        """``93% [88%, 97%]``."""
        return f"{self.accuracy:.0%} [{self.ci_low:.0%}, {self.ci_high:.0%}]"


@dataclass(frozen=True)
class KeptPlan:
    """What was asked; arms by name."""

    arms: tuple[str, ...]
    baseline: str
    tasks: tuple[str, ...]
    contexts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EvalRecord(record.Record):
    """Accuracy by arm, task and length."""

    plan: KeptPlan
    rows: tuple[Accuracy, ...] = ()
    arms: dict[str, ArmFacts] = field(default_factory=dict)
