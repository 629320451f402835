"""The load report as text: for the terminal, and as Markdown for a pull request."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.launch.load import words
from sglang_hisa.launch.report.text import plain, table


def print_report(record: dict[str, Any], console: Console | None = None) -> None:
    """Notes, a row for each load, the knee and the origin."""
    console = console or Console()
    for note in words.notes(record):
        console.print(Text(note, style="bold red"))
    title = Text(f"{words.workload(record)}; {words.served(record)}")
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, title=title)
    for name in words.head(record):
        shown.add_column(name, justify="right")
    for row in words.rows(record):
        shown.add_row(*map(Text, row), style="green" if "knee" in row[0] else "")
    console.print(shown)
    console.print(Text(words.verdict(record), style="bold"))
    for line in (*words.facts(record), words.origin(record)):
        console.print(Text(line, style="dim"))


def markdown(record: dict[str, Any]) -> str:
    """The same for a pull request."""
    return "\n\n".join(
        (
            *(f"> **{plain(note)}**" for note in words.notes(record)),
            f"**{plain(words.verdict(record))}**",
            plain(f"{words.workload(record)}; {words.served(record)}"),
            table(words.head(record), (map(plain, row) for row in words.rows(record))),
            *map(plain, words.facts(record)),
            f"<sub>{plain(words.origin(record))}</sub>\n",
        )
    )
