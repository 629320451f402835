"""The record of stress runs: a row for each scene that a call played on an arm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sglang_hisa.launch.common import record


@dataclass(frozen=True, kw_only=True)
class StressRow(record.Row):
    """Counts of all rounds of one scene."""

    id: str = ""
    test: str
    """The scene."""
    arm: str
    model: str
    minutes: float = 0.0
    rounds: int = 0
    requests: int = 0
    canary_pages_checked: int = 0
    violations: int = 0
    """Page summaries that were wrong."""
    pages_rebuilt: int = 0
    retractions: int = 0
    crashes: int = 0
    problems: tuple[str, ...] = ()
    facts: dict[str, float] = field(default_factory=dict)
    """The largest of each over the rounds."""
    means: dict[str, float] | None = None
    """The mean of each over the rounds; older records do not have it."""
    first_violation: Any = None

    @property
    def is_right(self) -> bool:
        return not (self.violations or self.crashes or self.problems)


@dataclass(frozen=True, kw_only=True)
class StressRecord(record.Record):
    """Rows of all calls."""

    rows: tuple[StressRow, ...] = ()
