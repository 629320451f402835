"""A record to which several calls add rows, one after another or at the same time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from sglang_hisa.launch.common.files import save
from sglang_hisa.launch.common.provenance import provenance
from sglang_hisa.launch.common.record import Row
from sglang_hisa.launch.common.typed import as_json, read

R = TypeVar("R", bound=Row)


class RowRecord(Generic[R]):
    """The record at ``path``: ``rows``, the ``commands`` that made them, the newest ``provenance``.

    Args:
        path: made if it is not there.
        command: of this call; kept.
        kind: the class of a row.
        key: the field that names a row; a row replaces the older one of its name.
    """

    def __init__(self, path: Path, command: str, kind: type[R], key: str) -> None:
        self.path, self.kind, self.key = path, kind, key
        with self._open() as record:
            record["commands"] = [*record.get("commands", []), command]
            record["provenance"] = provenance()

    @contextmanager
    def _open(self) -> Iterator[dict[str, Any]]:
        """The current record, locked; it is saved on exit."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            record = {"schema_version": 1, "rows": []} if not self.path.is_file() else self._read()
            yield record
            save(record, self.path.parent, self.path.name)
        finally:
            os.close(lock)

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self.path.read_text()))

    def rows(self) -> list[R]:
        """Rows of all calls so far."""
        return [read(self.kind, row) for row in self._read()["rows"]]

    def put(self, row: R) -> None:
        """Add ``row``, or replace the row with the same key."""
        new = as_json(row)
        with self._open() as record:
            names = [old[self.key] for old in record["rows"]]
            at = names.index(new[self.key]) if new[self.key] in names else len(names)
            record["rows"][at : at + 1] = [new]
