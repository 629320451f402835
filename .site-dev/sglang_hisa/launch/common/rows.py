"""A record of rows that calls add to, one after another or at the same time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sglang_hisa.launch.common.files import save
from sglang_hisa.launch.common.provenance import provenance


class RowRecord:
    """The record at ``path``: ``rows``, the ``commands`` that made them, the newest ``provenance``.

    Args:
        path: made if it is not there.
        command: of this call; kept.
        key: the field that names a row; a row replaces the older one of its name.
    """

    def __init__(self, path: Path, command: str, key: str) -> None:
        self.path, self.key = path, key
        with self._open() as record:
            record["commands"] = [*record.get("commands", []), command]
            record["provenance"] = provenance()

    @contextmanager
    def _open(self) -> Iterator[dict[str, Any]]:
        """The record as it is now, saved at the end; other calls wait for it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            record = {"schema_version": 1, "rows": []} if not self.path.is_file() else self.read()
            yield record
            save(record, self.path.parent, self.path.name)
        finally:
            os.close(lock)

    def read(self) -> dict[str, Any]:
        """The whole record as it is now."""
        record: dict[str, Any] = json.loads(self.path.read_text())
        return record

    def rows(self) -> list[dict[str, Any]]:
        """Rows of all calls so far."""
        rows: list[dict[str, Any]] = self.read()["rows"]
        return rows

    def put(self, row: dict[str, Any]) -> None:
        """Add ``row``, in the place of the one of its name if there is one."""
        with self._open() as record:
            names = [old[self.key] for old in record["rows"]]
            at = names.index(row[self.key]) if row[self.key] in names else len(names)
            record["rows"][at : at + 1] = [row]
