"""The report of an evaluation as text: for the terminal, and as Markdown for a pull request."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.launch.common import text
from sglang_hisa.launch.eval import formatting
from sglang_hisa.launch.eval.record import EvalRecord

STYLES = {formatting.LOST: "red", formatting.WON: "green"}


def print_report(record: EvalRecord, console: Console | None = None) -> None:
    """Accuracy by task and context; against the baseline, answers lost and won on the same prompts."""
    console = console or Console()
    for note in formatting.notes(record):
        console.print(Text(note, style="bold red"))
    shown = Table(title=Text(formatting.reading(record)))
    for name in formatting.head(record):
        shown.add_column(Text(name), overflow="fold")
    for line in formatting.table(record):
        shown.add_row(*(Text(cell.text, style=STYLES.get(cell.verdict, "")) for cell in line))
    console.print(shown)
    for note in formatting.left_out(record):
        console.print(Text(note, style="yellow"))
    console.print(Text(formatting.origin(record), style="dim"))


def markdown(record: EvalRecord) -> str:
    """The same for a pull request; losses and gains that are sure are bold."""

    def shown(cell: formatting.Cell) -> str:
        return f"**{text.plain(cell.text)}**" if cell.verdict else text.plain(cell.text)

    head = map(text.plain, formatting.head(record))
    return "\n\n".join(
        (
            *(f"> **{text.plain(note)}**" for note in formatting.notes(record)),
            text.plain(formatting.reading(record).replace("coloured", "bold")) + ".",
            text.table(head, (map(shown, line) for line in formatting.table(record))),
            *map(text.plain, formatting.left_out(record)),
            text.table(formatting.ARMS_HEAD, (map(text.plain, row) for row in formatting.arms(record))),
            f"<sub>{text.plain(formatting.origin(record))}</sub>\n",
        )
    )
