"""The folder of a live comparison: the record (report.json), each window (windows.jsonl), and the table."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.files import save
from sglang_hisa.launch.live import formatting, page, plots

KIND, VERSION = "hisa-ab-live", 1
_KEYS = ("plan", "arms", "refusals", "complete", "stopped_by", "provenance", "model", "seconds", "cut")
__all__ = ["append", "load", "print_report", "save", "table", "windows", "write"]


def append(windows: dict[str, dict[str, Any] | None], at: float, folder: Path) -> None:
    """Add a window to windows.jsonl: a line, whatever the length of the run."""
    with (folder / "windows.jsonl").open("a") as file:
        file.write(json.dumps({"seconds": round(at, 1), "arms": windows}, allow_nan=False) + "\n")


def load(folder: Path) -> dict[str, Any]:
    """The record of a folder; raises as :func:`files.load`."""
    return files.load(folder, KIND, VERSION, keys=_KEYS)


def windows(folder: Path) -> list[dict[str, Any]]:
    """The windows of a folder, as far as they were written whole."""
    path, found = folder / "windows.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):  # the last one, cut by a kill
            found.append(json.loads(line))
    return found


def write(record: dict[str, Any], source: Path, folder: Path) -> list[Path]:
    """Write report.html, report.md, windows.csv and the plot to ``folder``; the paths written.

    Args:
        source: folder of the windows. Without matplotlib there is no plot.

    Raises:
        ImportError: jinja2 is missing (``pip install sglang-hisa[bench]``).
    """
    lines = windows(source)
    try:
        pictures = plots.draw(record, lines)
    except ImportError:
        pictures = {}
    made = files.write(folder, page.html(record, pictures), page.markdown(record), pictures)
    return [*made, files.write_csv(folder, page.flat(lines), "windows.csv")]


def table(columns: dict[str, dict[str, Any] | None], title: str | None = None) -> Table:
    """A column for each window, a row for each of ``formatting.ROWS`` that has a value."""
    shown = Table(title=title and Text(title))
    for name in ("", *columns):
        shown.add_column(Text(name), justify="right" if name else "left")
    for row in formatting.ROWS:
        values = [formatting.cell(row, window) for window in columns.values()]
        if any(value != formatting.NONE for value in values):
            shown.add_row(row, *map(Text, values))
    return shown


def print_report(record: dict[str, Any], console: Console | None = None) -> None:
    """Notes, what each arm did in all, and the origin."""
    console = console or Console()
    for note in formatting.notes(record):
        console.print(Text(note, style="bold red"))
    totals = {name: arm["totals"] for name, arm in record["arms"].items()}
    if any(totals.values()):
        console.print(Text(formatting.split(record)))
        console.print(table(totals))
        console.print(Text(formatting.UNPAIRED, style="bold"))
    console.print(Text(formatting.origin(record), style="dim"))
