"""The report of a comparison of load runs: terminal, Markdown, one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.page import render
from sglang_hisa.launch.common.text import plain, table
from sglang_hisa.launch.load import compare, formatting
from sglang_hisa.launch.load.record import LoadRecord

_READ = (
    "ITL and tokens per second are at steady state, while all requests of a load decode; in brackets is the "
    "ratio to the first run, above 1 is better. The runs were made one after the other, so there is no "
    "interval; hisa ab gives one."
)


def _notes(records: Sequence[LoadRecord]) -> list[str]:
    named = zip(compare.names(records), records)
    return [f"{name}: {note}" for name, record in named for note in formatting.notes(record)]


def _origins(records: Sequence[LoadRecord]) -> list[str]:
    named = zip(compare.names(records), records)
    return [f"{name}: {formatting.served(record)}; {formatting.origin(record)}" for name, record in named]


def print_report(records: Sequence[LoadRecord], console: Console | None = None) -> None:
    """Notes, a row for each load and run, the verdicts and the origins."""
    console = console or Console()
    for note in _notes(records):
        console.print(Text(note, style="bold red"))
    shown = Table(*compare.HEAD, box=SIMPLE_HEAD, pad_edge=False, title=Text(formatting.workload(records[0])))
    for row in compare.rows(records):
        shown.add_row(*map(Text, row))
    console.print(shown)
    for line in (_READ, *_origins(records)):
        console.print(Text(line, style="dim"))
    for line in compare.verdicts(records):
        console.print(Text(line, style="bold"))


def markdown(records: Sequence[LoadRecord]) -> str:
    """The same for a pull request."""
    parts = [
        *(f"> **{plain(note)}**" for note in _notes(records)),
        *(f"**{plain(line)}**" for line in compare.verdicts(records)),
        plain(formatting.workload(records[0])),
        table(compare.HEAD, (map(plain, row) for row in compare.rows(records))),
        _READ,
        *(f"<sub>{plain(line)}</sub>" for line in _origins(records)),
    ]
    return "\n\n".join(parts) + "\n"


def html(records: Sequence[LoadRecord]) -> str:
    """The same as a page. Raises ``ImportError``: jinja2 is missing; torch depends on it."""
    return render(
        _BODY,
        {},
        title=f"Load: {', '.join(compare.names(records))}",
        workload=formatting.workload(records[0]),
        notes=_notes(records),
        verdicts=compare.verdicts(records),
        head=compare.HEAD,
        rows=compare.rows(records),
        read=_READ,
        origins=_origins(records),
    )


def write(records: Sequence[LoadRecord], folder: Path) -> list[Path]:
    """report.html and report.md in ``folder``; the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    return files.write(folder, html(records), markdown(records), {})


_BODY = """\
<h1>{{ workload }}</h1>
{% for note in notes %}<p class="note">{{ note }}</p>
{% endfor %}
{% for line in verdicts %}<p><strong>{{ line }}</strong></p>
{% endfor %}
<div class="scroll"><table id="loads">
<tr>{% for name in head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for part in row %}<td>{{ part }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p>{{ read }}</p>
{% for line in origins %}<p><small>{{ line }}</small></p>
{% endfor %}
"""
