"""The folder of an A/B run: the record, and what a person reads of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_hisa.launch.ab import cell_tables, page, plots, stats
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.typed import as_json, read


def write(record: AbRecord, folder: Path) -> list[Path]:
    """Write report.json (``stats``, ``rows`` made anew), report.md, report.html and plots; the paths written.

    The record is written first and in one step, so that it is whole whatever happens after. Without
    matplotlib there are no plots.

    Raises:
        ImportError: scipy or jinja2 is missing (``pip install sglang-hisa[bench]``); report.json is written.
    """
    record.save(folder)
    return _write(complete(record).as_json(), folder)


def render(source: Path, folder: Path) -> list[Path]:
    """The same for a kept record; raises as :meth:`AbRecord.load`, too."""
    return _write(again(source), folder)


def _write(kept: dict[str, Any], folder: Path) -> list[Path]:
    record = read(AbRecord, kept)
    path = files.save(kept, folder)
    try:
        pictures = plots.draw(record)
    except ImportError:
        pictures = {}
    html = page.html(record, kept["plan"], pictures)
    made = files.write(folder, html, cell_tables.markdown(record), pictures)
    return [path, *made, files.write_csv(folder, kept["rows"])]


def complete(record: AbRecord) -> AbRecord:
    """``record`` with ``stats`` and ``rows`` made anew. Raises ``ImportError`` without scipy."""
    made = stats.compute(record)
    return replace(record, stats=made, rows=stats.rows(record, made))


def again(source: Path) -> dict[str, Any]:
    """The JSON of a kept record, ``stats`` and ``rows`` made anew; what this version does not know stays.

    Raises as :meth:`AbRecord.load`, and ``ImportError`` without scipy.
    """
    kept = AbRecord.kept(source)
    made = complete(read(AbRecord, kept))
    return {**kept, "stats": as_json(made.stats), "rows": as_json(made.rows)}


def keep(source: Path, folder: Path) -> list[Path]:
    """Keep the record of the run in ``source``, its statistics made anew, and its notes (``*.txt``).

    They lie flat in ``folder`` under the run's name, in the place of those that had it; the paths written.

    Raises:
        OSError: no record there.
        ValueError: another kind of record, or a name that does not start with ``ab-``.
    """
    source = source.resolve()
    if not source.name.startswith("ab-"):
        raise ValueError(f"{source}: the record takes the folder's name, which has to start with ab-")
    record = again(source)
    for old in folder.glob(f"{source.name}.*"):
        old.unlink()
    notes = {folder / f"{source.name}.{note.name}": note for note in sorted(source.glob("*.txt"))}
    path = files.save(record, folder, f"{source.name}.json")
    for kept, note in notes.items():
        shutil.copyfile(note, kept)
    return [path, *notes]
