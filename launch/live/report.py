"""The folder of a live comparison: the record (report.json), each window (windows.jsonl), and the table."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.typed import as_json, read
from sglang_hisa.launch.live import formatting, page, plots
from sglang_hisa.launch.live.record import Line, LiveRecord, Windows


def append(line: Line, folder: Path) -> None:
    """Add a line to windows.jsonl, whatever the length of the run."""
    with (folder / "windows.jsonl").open("a") as file:
        file.write(json.dumps(as_json(line), allow_nan=False) + "\n")


def windows(folder: Path) -> list[Line]:
    """The windows of a folder, as far as they were written whole."""
    path, found = folder / "windows.jsonl", []
    for line in path.read_text().splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):  # the last one, cut by a kill
            found.append(read(Line, json.loads(line)))
    return found


def write(record: LiveRecord, source: Path, folder: Path) -> list[Path]:
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


def table(columns: Windows, title: str | None = None) -> Table:
    """A column for each window."""
    shown = Table(title=title and Text(title))
    for name in ("", *columns):
        shown.add_column(Text(name), justify="right" if name else "left")
    for row in formatting.rows(columns):
        shown.add_row(*map(Text, row))
    return shown


def print_report(record: LiveRecord, console: Console | None = None) -> None:
    """Notes, what each arm did in all, and the origin."""
    console = console or Console()
    for note in formatting.notes(record):
        console.print(Text(note, style="bold red"))
    if any(record.totals.values()):
        console.print(Text(formatting.split(record)))
        console.print(table(record.totals))
        console.print(Text(formatting.UNPAIRED, style="bold"))
    console.print(Text(formatting.origin(record), style="dim"))
