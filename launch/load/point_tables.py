"""The load report as text: for the terminal, and as Markdown for a pull request."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.launch.common.text import plain, table
from sglang_hisa.launch.load import formatting, steady_rows
from sglang_hisa.launch.load.record import LoadRecord


def print_report(record: LoadRecord, console: Console | None = None) -> None:
    """Notes, a row for each load, the knee and the origin."""
    console = console or Console()
    for note in formatting.notes(record):
        console.print(Text(note, style="bold red"))
    title = Text(f"{formatting.workload(record)}; {formatting.served(record)}")
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, title=title)
    for name in formatting.head(record):
        shown.add_column(name, justify="right", overflow="fold")
    for row in formatting.rows(record):
        shown.add_row(*map(Text, row), style="green" if "knee" in row[0] else "")
    console.print(shown)
    if lines := steady_rows.rows(record):
        shown = Table(*steady_rows.HEAD, box=SIMPLE_HEAD, pad_edge=False, title=Text(steady_rows.TITLE))
        for row in lines:
            shown.add_row(*map(Text, row))
        console.print(shown)
    console.print(Text(formatting.verdict(record), style="bold"))
    for line in (*formatting.facts(record), *steady_rows.notes(record), formatting.origin(record)):
        console.print(Text(line, style="dim"))


def _steady(record: LoadRecord) -> list[str]:
    lines = steady_rows.rows(record)
    return (
        [f"{steady_rows.TITLE}:", table(steady_rows.HEAD, (map(plain, row) for row in lines))]
        if lines
        else []
    )


def markdown(record: LoadRecord) -> str:
    """The same for a pull request."""
    return "\n\n".join(
        (
            *(f"> **{plain(note)}**" for note in formatting.notes(record)),
            f"**{plain(formatting.verdict(record))}**",
            plain(f"{formatting.workload(record)}; {formatting.served(record)}"),
            table(formatting.head(record), (map(plain, row) for row in formatting.rows(record))),
            *_steady(record),
            *map(plain, (*formatting.facts(record), *steady_rows.notes(record))),
            f"<sub>{plain(formatting.origin(record))}</sub>\n",
        )
    )
