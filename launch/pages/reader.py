"""Reads the records that a table is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from sglang_hisa.launch.common import flags, record, text

ROOT = Path(__file__).parents[2]
R = TypeVar("R", bound=record.Record)


class Reader:
    """Reads records by name, and remembers which: what their servers differ by is said below a table."""

    def __init__(self) -> None:
        self.records: dict[str, record.Record] = {}

    def __call__(self, kind: type[R], name: str) -> R:
        """``launch/results/NAME.json``; raises as :func:`record.load`."""
        found = record.load(ROOT / self.path(name), kind)
        self.records[name] = found
        return found

    @staticmethod
    def path(name: str) -> str:
        """Where a record lies in the checkout."""
        return f"launch/results/{name}.json"

    def source(self, *names: str) -> str:
        """A line for each of these records, which were read: machine, versions, commit, date, link."""
        lines = []
        for name in names:
            found = self.records[name]
            lines.append(text.source(found.origin, self.path(name), flags.ranks(found)))
        return "\n\n".join(lines)
