"""What all records have in common (docs/design.md, records)."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.provenance import Provenance, together
from sglang_hisa.launch.common.typed import as_json, null, read


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a record. Rows of several calls have a provenance each."""

    provenance: Provenance | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record; each kind has a class of its own that adds its fields."""

    schema_version: int = 1
    kind: str = ""
    provenance: Provenance = field(default_factory=Provenance)
    commands: tuple[str, ...] = ()
    """What was run, where several calls made the record."""
    flags: tuple[str, ...] | None = None
    """SGLang's flags of all its servers; None where a record keeps the command only."""
    rows: tuple[Row, ...] = ()

    @staticmethod
    def upgraded(found: dict[str, Any]) -> dict[str, Any]:
        """The JSON of a record of any schema, in the terms of the newest one."""
        return found

    @property
    def origins(self) -> tuple[Provenance, ...]:
        """The provenance of each row that has one, or that of the record."""
        return tuple(row.provenance for row in self.rows if row.provenance) or (self.provenance,)

    @property
    def origin(self) -> Provenance:
        """One provenance for the whole record."""
        return self.provenance if self.origins == (self.provenance,) else together(self.origins)

    def as_json(self) -> dict[str, Any]:
        """What the file of a single call holds: the command is in the provenance."""
        made = dict(as_json(self))
        del made["commands"]
        return {**made, "provenance": asdict(self.provenance)}


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """The record of one run, which may have been cut off."""

    complete: bool
    stopped_by: str | None = null()
    refusals: tuple[str, ...]
    model: str
    flags: tuple[str, ...]

    @classmethod
    def kept(cls, source: Path) -> dict[str, Any]:
        """The JSON of a record by its file, or by the folder of the run; raises as :func:`files.load`."""
        needed = (one.name for one in fields(cls) if one.default is one.default_factory is MISSING)
        return files.load(source, cls.kind, cls.schema_version, keys=tuple(needed))

    @classmethod
    def load(cls, source: Path) -> Self:
        """The same, typed. Raises ``ValueError``, too, where a field is missing or of another type."""
        return read(cls, cls.kept(source), source)

    @property
    def about(self) -> dict[str, str]:
        """The provenance, model and flags as a page shows them."""
        found = {**asdict(self.provenance), "model": self.model, "flags": " ".join(self.flags)}
        return {key: "–" if value is None else value for key, value in found.items()}

    def save(self, folder: Path) -> None:
        """Write report.json in one step."""
        files.save(self.as_json(), folder)


R = TypeVar("R", bound=Record)


def load(path: Path, kind: type[R]) -> R:
    """The record at ``path``; of a text that tests printed, the provenance in its first line.

    Raises:
        OSError: there is no such file.
        ValueError: it is not of this kind.
    """
    text = path.read_text()
    if path.suffix == ".json":
        return read(kind, kind.upgraded(json.loads(text)))
    return read(kind, {"provenance": json.loads(text.partition("\n")[0])})
