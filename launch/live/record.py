"""The record of `hisa ab --live`: how traffic was split, and what each arm did with its share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sglang_hisa.launch.ab.record import ArmFacts
from sglang_hisa.launch.common.record import RunRecord
from sglang_hisa.launch.common.typed import null


@dataclass(frozen=True, kw_only=True)
class Window:
    """What an arm did between two readings of its metrics: seconds, tokens a second, shares from 0 to 1.

    None: nothing, or not counted. ``running`` and ``queued`` are those of the second reading; recall is of
    all audited rows since the server started.
    """

    seconds: float
    requests: int
    aborted: int
    running: int
    queued: int
    ttft_count: int
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    itl_count: int
    itl_p50_s: float | None
    itl_p95_s: float | None
    prefill_tok_s: float | None
    decode_tok_s: float | None
    cache_hit: float | None
    candidates_prefill: float | None
    candidates_decode: float | None
    canary_checks: float | None
    canary_violations: float | None
    audit_recall: float | None
    audit_worst_recall: float | None


Windows = Mapping[str, Window | None]
"""By arm; None where it gave no answer."""


@dataclass(frozen=True)
class Line:
    """A line of windows.jsonl, ``seconds`` after the start."""

    seconds: float
    arms: dict[str, Window | None]


@dataclass(frozen=True)
class Died:
    """The end of an arm's server: its exit code, when, and what it said last of its requests."""

    code: int
    seconds: float
    busy: str


@dataclass(frozen=True, kw_only=True)
class LiveFacts(ArmFacts):
    """Of one arm; ``totals`` are since the start."""

    died: Died | None = null()
    totals: Window | None = null()


@dataclass(frozen=True, kw_only=True)
class LivePlan:
    """Both arms by name; the second gets ``slots[0]`` of ``slots[1]`` requests."""

    arms: tuple[str, str]
    baseline: str
    slots: tuple[int, int]
    place: str
    """How they share the machine."""


@dataclass(frozen=True, kw_only=True)
class LiveRecord(RunRecord):
    """One run."""

    kind: str = "hisa-ab-live"
    plan: LivePlan
    arms: dict[str, LiveFacts]
    seconds: float | None = null()
    """How long it served."""
    cut: str | None = null()
    """What was still under way when the time to drain was over."""

    @property
    def totals(self) -> Windows:
        """What each arm did in all."""
        return {name: arm.totals for name, arm in self.arms.items()}
