"""The folder of an A/B run: the record, and what a person reads of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sglang_hisa.launch.ab import page, plots, stats, tables

KIND, VERSION = "hisa-ab", 1


def write(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write report.json (with ``stats``, made anew), report.md, report.html and the plots; the paths written.

    The record is written first and in one step, so that it is whole whatever happens after. Without
    matplotlib there are no plots.

    Raises:
        ImportError: scipy or jinja2 is missing (``pip install sglang-hisa[bench]``); report.json is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "report.json"
    save(record, folder)
    record = {**record, "stats": stats.compute(record)}
    save(record, folder)
    try:
        pictures = plots.draw(record)
    except ImportError:
        pictures = {}
    written = [kept]
    for name, content in (
        ("report.html", page.html(record, pictures).encode()),
        ("report.md", tables.markdown(record).encode()),
        *pictures.items(),
    ):
        (folder / name).write_bytes(content)
        written.append(folder / name)
    return written


def save(record: dict[str, Any], folder: Path) -> None:
    """Write report.json of ``folder`` in one step: a kill leaves the last whole record."""
    path = folder / "report.json"
    half = path.with_suffix(".json.part")
    half.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    half.replace(path)


def load(folder: Path) -> dict[str, Any]:
    """The record of a folder that ``write`` made.

    Raises:
        FileNotFoundError: no report.json there.
        ValueError: it is not an A/B record of this schema.
    """
    path = folder / "report.json"
    record: dict[str, Any] = json.loads(path.read_text())
    found = (record.get("kind"), record.get("schema_version"))
    if found != (KIND, VERSION):
        raise ValueError(f"{path}: kind and schema {found}, expected {(KIND, VERSION)}")
    return record
