"""The folder of an A/B run: the record, and what a person reads of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_hisa.launch.ab import cell_tables, page, plots, stats
from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.files import save

KIND, VERSION = "hisa-ab", 1
_KEYS = ("plan", "arms", "measurements", "refusals", "complete", "stopped_by", "provenance", "model", "flags")
__all__ = ["complete", "load", "save", "write"]


def write(record: dict[str, Any], folder: Path) -> list[Path]:
    """Write report.json (``stats``, ``rows`` made anew), report.md, report.html and plots; the paths written.

    The record is written first and in one step, so that it is whole whatever happens after. Without
    matplotlib there are no plots.

    Raises:
        ImportError: scipy or jinja2 is missing (``pip install sglang-hisa[bench]``); report.json is written.
    """
    save(record, folder)
    record = complete(record)
    kept = save(record, folder)
    try:
        pictures = plots.draw(record)
    except ImportError:
        pictures = {}
    made = files.write(folder, page.html(record, pictures), cell_tables.markdown(record), pictures)
    return [kept, *made, files.write_csv(folder, record["rows"])]


def complete(record: dict[str, Any]) -> dict[str, Any]:
    """``record`` with ``stats`` and ``rows`` made anew. Raises ``ImportError`` without scipy."""
    with_stats = {**record, "stats": stats.compute(record)}
    return {**with_stats, "rows": stats.rows(with_stats)}


def load(source: Path) -> dict[str, Any]:
    """A record by its file, or by the folder that ``write`` made; raises as :func:`files.load`."""
    return files.load(source, KIND, VERSION, keys=_KEYS)
