"""The folder of an A/B run: the record, and what a person reads of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_hisa.launch.ab import page, plots, stats, tables
from sglang_hisa.launch.report import files
from sglang_hisa.launch.report.files import save

KIND, VERSION = "hisa-ab", 1
__all__ = ["load", "save", "write"]


def write(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write report.json (``stats``, ``rows`` made anew), report.md, report.html and plots; the paths written.

    The record is written first and in one step, so that it is whole whatever happens after. Without
    matplotlib there are no plots.

    Raises:
        ImportError: scipy or jinja2 is missing (``pip install sglang-hisa[bench]``); report.json is written.
    """
    save(record, folder)
    record = {**record, "stats": stats.compute(record)}
    record["rows"] = stats.rows(record)
    kept = save(record, folder)
    try:
        pictures = plots.draw(record)
    except ImportError:
        pictures = {}
    return [kept, *files.write(folder, page.html(record, pictures), tables.markdown(record), pictures)]


def load(folder: Path) -> dict[str, Any]:
    """The record of a folder that ``write`` made; raises as :func:`files.load`."""
    return files.load(folder, KIND, VERSION)
