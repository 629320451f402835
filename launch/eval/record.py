"""The record of `hisa eval`, as its readers see it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_hisa.launch.common import record
from sglang_hisa.launch.common.receipts import Receipt


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
    suite: str = "own"


@dataclass(frozen=True)
class Answer:
    """One answer: right or not, or a score from 0 to 1. ``depth``: where in the prompt the needle was."""

    arm: str
    task: str
    context: int
    depth: float | None = None
    right: bool | None = None
    score: float | None = None


@dataclass(frozen=True)
class ArmFacts:
    """What a server said of itself after its answers; None of stock DSA."""

    receipt: Receipt | None = None


@dataclass(frozen=True, kw_only=True)
class EvalRecord(record.Record):
    """Accuracy by arm, task and length."""

    plan: KeptPlan
    rows: tuple[Accuracy, ...] = ()
    arms: dict[str, ArmFacts] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()

    def by_depth(self, arm: str, task: str) -> dict[tuple[int, float], float]:
        """Accuracy by context and depth."""
        cells: dict[tuple[int, float], list[bool]] = {}
        for one in self.answers:
            if (one.arm, one.task) == (arm, task) and one.depth is not None and one.right is not None:
                cells.setdefault((one.context, one.depth), []).append(one.right)
        return {place: sum(right) / len(right) for place, right in cells.items()}
