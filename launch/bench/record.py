"""The record of `hisa bench kernels`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sglang_hisa.launch.common import record

KERNELS_VERSION = 2
"""Schema 2: stage ``pick`` is the choice of pages alone in both phases."""


@dataclass(frozen=True, kw_only=True)
class KernelRow(record.Row):
    """One stage, or the total, of an indexer layer. Times are medians in µs, with their 20th and 80th
    percentiles; None where the arm has no such stage."""

    phase: str
    """``decode`` or ``prefill``."""
    context: int
    """Tokens that a row sees; in prefill, the last row of the chunk."""
    batch: int | None = None
    """Rows of a decode step."""
    rows: int | None = None
    """Rows of a prefill chunk."""
    heads: int
    budget: int
    """Tokens that a row scores."""
    block: int = 64
    """Tokens that share a coarse score."""
    group: int = 1
    """Prefill rows that chose together."""
    tail: int = 0
    """Last rows of a prefill chunk that kept everything."""
    head_share: float = 1.0
    """Of the index heads, those that scored the tokens of a prefill row."""
    preset: str = ""
    refine: str
    """Kernel of the token scores, ``deepgemm`` or ``triton``."""
    stage: str
    layers: int | None = None
    """Layers that one timed graph ran."""
    stock_topk: str | None = None
    stock_us: float | None = None
    stock_p20_us: float | None = None
    stock_p80_us: float | None = None
    hisa_us: float
    hisa_p20_us: float
    hisa_p80_us: float
    speedup: float | None = None
    floor_us: float | None = None
    stock_host_us: float | None = None
    hisa_host_us: float | None = None

    @property
    def size(self) -> int:
        """Rows, of either phase."""
        return self.batch or self.rows or 0

    @property
    def cell(self) -> tuple[object, ...]:
        """What names a row of the record: measured again, it takes the place of the older one."""
        shape = (self.phase, self.context, self.size, self.heads, self.budget)
        return (*shape, self.block, self.refine, self.stage, self.group, self.tail, self.head_share)


@dataclass(frozen=True, kw_only=True)
class KernelRecord(record.Record):
    """All rows, with the launch settings of the kernels and what the machine can do at best."""

    schema_version: int = KERNELS_VERSION
    rows: tuple[KernelRow, ...] = ()
    settings: dict[str, int] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    """Cells whose check failed: they have no rows."""

    @staticmethod
    def upgraded(found: dict[str, Any]) -> dict[str, Any]:
        """In schema 1, stage ``pick`` of prefill had the coarse scores in it: it is ``coarse+pick``."""
        if found.get("schema_version", 1) >= KERNELS_VERSION:
            return found
        old = {("prefill", "pick"): "coarse+pick"}
        rows = [{**r, "stage": old.get((r["phase"], r["stage"]), r["stage"])} for r in found["rows"]]
        return {**found, "schema_version": KERNELS_VERSION, "rows": rows}

    def totals(self, phase: str, block: int = 64) -> list[KernelRow]:
        """Whole layers at the largest head count of the record, all rows pruned, refined by the kernel that a
        server takes, or by the only one that the record has.

        One row for each context, size, budget and group: the last, where a cell was measured more than once.
        """
        rows = [r for r in self.rows if (r.phase, r.stage) == (phase, "total") and r.stock_us]
        heads = max((r.heads for r in rows), default=0)
        limit = self.settings.get("refine_rows", 0) if phase == "decode" else 0
        only = len({r.refine for r in rows}) == 1
        kept = [
            r
            for r in rows
            if (r.heads, r.block, r.tail) == (heads, block, 0)
            and (only or r.refine == ("triton" if r.size <= limit else "deepgemm"))
        ]
        return list({(r.context, r.size, r.budget, r.group): r for r in kept}.values())


@dataclass(frozen=True, kw_only=True)
class TuneRow(record.Row):
    """One kernel, or a whole layer (``refine_rows``), with one choice of launch settings; µs as above."""

    kernel: str
    rows: int
    context: int
    settings: dict[str, int]
    us: float
    p20_us: float | None = None
    p80_us: float | None = None

    @property
    def shape(self) -> str:
        """Context and rows, for the terminal."""
        return f"{self.context // 1024:5}K x {self.rows:<5}"


@dataclass(frozen=True, kw_only=True)
class TuneRecord(record.Record):
    """The record of `hisa bench tune`; ``settings`` are the fastest."""

    rows: tuple[TuneRow, ...] = ()
    settings: dict[str, int] = field(default_factory=dict)
