"""The folder of an evaluation: the record, and what a person reads of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_hisa.launch.common import files
from sglang_hisa.launch.eval import page, plots, stats, tables
from sglang_hisa.launch.eval.tables import print_report

NAME, KIND, VERSION = "quality.json", "hisa-eval", 1
_KEYS = ("plan", "arms", "answers", "refusals", "complete", "provenance", "model")
__all__ = ["load", "print_report", "save", "write"]


def save(record: dict[str, Any], folder: Path) -> None:
    """Write the record, with its rows made anew; see :func:`files.save`."""
    record["rows"] = stats.rows(record["answers"], record["plan"]["baseline"])
    files.save(record, folder, NAME, indent=None)


def load(source: Path) -> dict[str, Any]:
    """A record by its file or folder; raises as :func:`files.load`."""
    return files.load(source, KIND, VERSION, NAME, _KEYS)


def write(record: dict[str, Any], folder: Path) -> list[Path]:
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
    return [*made, files.write_csv(folder, record["rows"])]
