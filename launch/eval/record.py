"""The record of `hisa eval`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sglang_hisa.launch.common import record
from sglang_hisa.launch.common.receipts import ArmFacts

NAME, KIND, VERSION = "quality.json", "hisa-eval", 1


@dataclass(frozen=True)
class Answer:
    """One answer of one arm: ``right``, or a ``score`` between 0 and 1."""

    arm: str
    task: str
    context: int
    depth: float
    sample: int
    """Names the prompt, with task, context and depth."""
    right: bool | None = None
    prompt: str | None = None
    """The beginning of the prompt's checksum, where another program made it."""
    tokens: int | None = None
    """Of the prompt, where they are less than the context."""
    score: float | None = None

    @property
    def value(self) -> float:
        """The score; 1 or 0 of an answer that is right or wrong."""
        return float(bool(self.right)) if self.score is None else self.score


@dataclass(frozen=True, kw_only=True)
class Accuracy(record.Row):
    """Answers of one arm to one task at one length; ``lost`` and ``won`` against the baseline. Of scores the
    accuracy is their mean, and there is a difference to the baseline's, with its 95 % interval if known."""

    arm: str
    task: str
    context: int
    accuracy: float
    n: int
    ci_low: float
    ci_high: float
    lost: int
    won: int
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float

    @property
    def text(self) -> str:
        """``93% [88%, 97%]``."""
        return f"{self.accuracy:.0%} [{self.ci_low:.0%}, {self.ci_high:.0%}]"


@dataclass(frozen=True)
class KeptPlan:
    """What was asked; arms by name, with their settings."""

    arms: tuple[str, ...]
    baseline: str
    tasks: tuple[str, ...]
    contexts: tuple[int, ...]
    samples: int
    seed: int
    settings: dict[str, str | None] = field(default_factory=dict)
    suite: str = "own"
    """``own``, ``ruler2`` (asked by sgl-eval) or ``longbench`` (by lm-eval)."""
    family: str = "records"
    """Of our own questions (:mod:`.families`)."""

    @property
    def scored(self) -> bool:
        """Whether answers have scores between 0 and 1, and are not just right or wrong."""
        return self.suite == "longbench"


@dataclass(frozen=True, kw_only=True)
class EvalArm(ArmFacts):
    """An arm that was asked."""

    known: bool = False
    """Whether its server said what it serves, after its answers."""
    starts_s: float | None = None
    prompt_tokens: dict[int, int] | None = None
    """By context."""
    left_out: dict[str, tuple[int, int]] | None = None
    """By task: prompts that are longer than the longest context, and all."""


@dataclass(frozen=True, kw_only=True)
class EvalRecord(record.Record):
    """Every answer, and accuracy by arm, task and length."""

    schema_version: int = VERSION
    kind: str = KIND
    complete: bool
    refusals: tuple[str, ...] = ()
    model: str
    plan: KeptPlan
    arms: dict[str, EvalArm] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()
    rows: tuple[Accuracy, ...] = ()

    @staticmethod
    def upgraded(found: dict[str, Any]) -> dict[str, Any]:
        """Older records have no receipt where it was not known, and none for stock DSA."""
        arms = {name: {"known": "receipt" in facts, **facts} for name, facts in found["arms"].items()}
        return {**found, "arms": arms}
