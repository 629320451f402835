"""The folder of an evaluation: the record, and what a person reads of it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.eval import page, plots, tables
from sglang_hisa.launch.eval.record import KIND, NAME, VERSION, Accuracy, EvalRecord
from sglang_hisa.launch.eval.tables import print_report

_KEYS = ("plan", "arms", "answers", "refusals", "complete", "provenance", "model")
__all__ = ["NAME", "load", "print_report", "save", "write"]


def save(record: EvalRecord, folder: Path) -> None:
    """Write the record; see :func:`files.save`."""
    files.save(record.as_json(), folder, NAME, indent=None)


def load(source: Path) -> EvalRecord:
    """A record by its file or folder; raises as :func:`files.load`."""
    found = files.load(source, KIND, VERSION, NAME, _KEYS)
    return read(EvalRecord, EvalRecord.upgraded(found), source)


def write(record: EvalRecord, folder: Path) -> list[Path]:
    """Write report.html, report.md, report.csv (the rows) and the plots; the paths written.

    Without matplotlib there are no plots.

    Raises:
        ImportError: jinja2 is missing (``pip install sglang-hisa[bench]``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        pictures = plots.draw(record)
    except ImportError:
        pictures = {}
    made = files.write(folder, page.html(record, pictures), tables.markdown(record), pictures)
    names = [field.name for field in fields(Accuracy) if field.name != "provenance"]
    if not record.plan.scored:
        names = [name for name in names if not name.startswith("difference")]
    rows = [{name: getattr(row, name) for name in names} for row in record.rows]
    return [*made, files.write_csv(folder, rows)]
