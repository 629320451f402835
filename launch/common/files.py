"""A folder with a record and what a person reads of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MEASURED = ("measurements", "points", "answers")
"""Where the records of ``ab``, ``load`` and ``eval`` have what was measured."""


def save(record: Mapping[str, Any], folder: Path, name: str = "report.json", indent: int | None = 1) -> Path:
    """Write the record of ``folder`` in one step: a kill leaves the last whole one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    half = path.with_suffix(".json.part")
    half.write_text(json.dumps(record, indent=indent, allow_nan=False) + "\n")
    half.replace(path)
    return path


def held(folder: Path, name: str = "report.json") -> str | None:
    """What would be lost if a new run replaced the record of ``folder``, in words; None: nothing measured."""
    path = folder / name
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text())
        measured = sum(len(record.get(part) or ()) for part in MEASURED)
    except (ValueError, AttributeError, OSError):
        return "a record that cannot be read"
    if record.get("complete"):
        return "a finished run"
    if seconds := record.get("seconds"):  # of `hisa ab --live`
        return f"a partial run of {seconds:.0f} s"
    return f"a partial run with {measured} measurements" if measured else None


def set_aside(folder: Path, name: str = "report.json") -> Path:
    """Rename the record of ``folder`` to the first ``NAME.1``, ``NAME.2``... that is free; the new path."""
    number = 1
    while (kept := folder / f"{name}.{number}").exists():
        number += 1
    return (folder / name).rename(kept)


def write(folder: Path, html: str, markdown: str, pictures: Mapping[str, bytes]) -> list[Path]:
    """Write report.html, report.md and the plots; the paths written."""
    written = []
    for name, content in (
        ("report.html", html.encode()),
        ("report.md", markdown.encode()),
        *pictures.items(),
    ):
        (folder / name).write_bytes(content)
        written.append(folder / name)
    return written


def write_csv(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "report.csv") -> Path:
    """Write flat rows as CSV under all their keys; the path written. A value that is missing is empty."""
    path = folder / name
    with path.open("w", newline="") as file:
        heads = dict.fromkeys(key for row in rows for key in row)
        writer = csv.DictWriter(file, list(heads), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def place(source: Path, out: Path | None) -> Path:
    """The folder for the report of the record at ``source``: ``out``, or the record's own folder.

    Raises:
        ValueError: ``source`` is a file, which others may lie beside, and ``out`` is missing.
    """
    if out is None and source.is_file():
        raise ValueError(f"--from {source}: say --out DIR as well, the folder that takes the report")
    return out or source


def load(
    source: Path, kind: str, version: int, name: str = "report.json", keys: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The record at ``source``: its file, or a folder that holds it under ``name``.

    Raises:
        FileNotFoundError: none there.
        ValueError: it is not a record of this kind and schema, or lacks one of ``keys``.
    """
    path = source if source.is_file() else source / name
    try:
        record: Any = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not a whole JSON file ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is no record: not a JSON object")
    found = (record.get("kind"), record.get("schema_version"))
    if found != (kind, version):
        raise ValueError(f"{path}: kind and schema {found}, expected {(kind, version)}")
    if missing := [key for key in keys if key not in record]:
        raise ValueError(f"{path} is not a whole record: it lacks {', '.join(missing)}")
    return record
