"""The record of `hisa load`; times in seconds."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from sglang_hisa.launch.common import typed
from sglang_hisa.launch.common.limits import Limits
from sglang_hisa.launch.common.provenance import Provenance
from sglang_hisa.launch.common.receipts import Receipt, Said
from sglang_hisa.launch.load import goodput
from sglang_hisa.launch.load.plan import Sweep, Workload
from sglang_hisa.launch.load.points import Kept

KIND, VERSION = "hisa-load", 1


@dataclass(frozen=True)
class KeptWorkload:
    """:class:`.plan.Workload`; prompts of a file by their number and the checksum of all."""

    name: str
    input_tokens: int
    output_tokens: int
    groups: int
    prefix_tokens: int
    turns: int
    prompts: int | None = None
    sha256: str | None = None

    @classmethod
    def of(cls, work: Workload) -> KeptWorkload:
        sizes = (work.input_tokens, work.output_tokens, work.groups, work.prefix_tokens, work.turns)
        if not work.prompts:
            return cls(work.name, *sizes)
        texts = "\0".join(prompt.text for prompt in work.prompts)
        return cls(work.name, *sizes, len(work.prompts), hashlib.sha256(texts.encode()).hexdigest())


@dataclass(frozen=True)
class KeptPlan:
    """What was to be sent."""

    workload: KeptWorkload
    sweep: Sweep

    @property
    def by_rate(self) -> bool:
        """Whether loads are rates: what was asked is then not what arrived, at random moments."""
        return self.sweep.kind == "rate"

    @property
    def conversations(self) -> bool:
        return self.workload.turns > 1


@dataclass(frozen=True)
class ServerFacts:
    """What a server says of itself; ``receipt`` as it came, None of stock DSA."""

    version: str
    model: str
    tokenizer: str
    receipt: Said | None
    kv_tokens: int

    @property
    def hisa(self) -> Receipt | None:
        """The receipt, as far as this version knows it."""
        return typed.read(Receipt, self.receipt) if self.receipt else None


@dataclass(frozen=True, kw_only=True)
class LoadRecord:
    """What was planned, and what each load took; ``slo`` are the limits by name of ``plan.SLOS``."""

    schema_version: int = VERSION
    kind: str = KIND
    complete: bool = False
    stopped_by: str | None = typed.null()
    log_tail: str | None = typed.null()
    provenance: Provenance
    url: str
    server: ServerFacts
    plan: KeptPlan
    nonce: str | None = typed.null()
    slo: dict[str, float]
    limits: Limits | None = typed.null()
    rows: tuple[Said, ...] | None = typed.null()
    """What came to the rows of each receipt (:func:`.pruning.since`)."""
    points: tuple[Kept, ...] = ()

    @cached_property
    def stats(self) -> goodput.Stats:
        """Made anew, of the requests and limits."""
        return goodput.compute(self.points, self.slo)

    def as_json(self) -> dict[str, Any]:
        """As it is kept, with ``stats`` for readers of the file."""
        origin = {"provenance": asdict(self.provenance)}
        return {**typed.as_json(self), **origin, "stats": typed.as_json(self.stats)}
