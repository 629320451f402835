"""The receipt of a server (``/server_info``), and what is wrong where it is not that of its arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sglang_hisa.launch.common.typed import null, read

Said = dict[str, Any]
"""What a server (``/server_info``) or one of its schedulers (the receipt) says of itself, in any version."""


@dataclass(frozen=True)
class Canary:
    """Page summaries that were compared with the cached keys, and those that differed."""

    checks: int = 0
    violations: int = 0
    first: Any = None
    """The first violation."""


@dataclass(frozen=True)
class Audit:
    """What audited rows missed of stock DSA's choice; None before the first."""

    recall: float | None = None
    missed_mass: float | None = None


@dataclass(frozen=True)
class Phase:
    """Rows that HISA served in one phase, and the share of their context that it scored."""

    rows: int = 0
    candidate_share: float | None = None


@dataclass(frozen=True)
class Rows:
    """Rows by who served them; those of stock DSA by reason."""

    prefill: Phase | None = None
    decode: Phase | None = None
    stock: dict[str, int] = field(default_factory=dict)

    @property
    def phases(self) -> dict[str, Phase]:
        """The phases that the receipt has."""
        found = {"prefill": self.prefill, "decode": self.decode}
        return {name: phase for name, phase in found.items() if phase is not None}


@dataclass(frozen=True)
class Receipt:
    """What one scheduler says of itself."""

    active: bool
    version: str = ""
    sglang: str = ""
    preset: str = ""
    changed: tuple[str, ...] = ()
    """Keys that the preset has other values of."""
    config: dict[str, Any] = field(default_factory=dict)
    layers: int = 0
    graphs_with_hisa: int = 0
    summary_bytes: int = 0
    hisa_steps: dict[str, int] = field(default_factory=dict)
    stock_steps: dict[str, int] = field(default_factory=dict)
    rows: Rows = Rows()
    summary_rebuilds: dict[str, int] = field(default_factory=dict)
    audit: Audit = Audit()
    canary: Canary = Canary()


@dataclass(frozen=True, kw_only=True)
class ArmFacts:
    """What a record keeps of an arm's server; None where it said nothing, as stock DSA has no receipt."""

    receipt: Said | None = null()
    """Of its first scheduler."""
    rows: tuple[Said, ...] | None = null()
    """The rows that each scheduler counted (:mod:`.pruning`)."""
    log_tail: str | None = null()
    """The end of the log of a server that failed."""
    killed: str | None = null()
    """How it was ended from outside (:mod:`.ends`)."""

    @property
    def served(self) -> Receipt | None:
        """The receipt, as far as this version knows it."""
        return None if self.receipt is None else read(Receipt, self.receipt)


def typed(receipts: Sequence[Said | None]) -> list[Receipt | None]:
    """Receipts as :meth:`ServerProcess.receipts` returns them; None of a stock scheduler."""
    return [None if one is None else read(Receipt, one) for one in receipts]


def problem(receipts: Sequence[Receipt | None], hisa: bool) -> str:
    """Why a server with these receipts, one for each scheduler, does not serve HISA, or stock DSA.

    Empty where it does.
    """
    if not hisa:
        return "serves HISA, not stock DSA" if any(receipts) else ""
    if not receipts or None in receipts:
        return "no HISA receipt in /server_info (is the plugin installed there?)"
    if not all(receipt and receipt.active for receipt in receipts):
        return "the receipt says that HISA is not active"
    return ""
