"""The A/B report as text: for the terminal, and as Markdown for a pull request."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.launch.ab import formatting, quality, sentence, stats, steady_rows
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common.text import plain, table

STYLES = {stats.FASTER: "green", stats.SLOWER: "red", stats.TOO_FEW: "yellow"}


def print_report(record: AbRecord, console: Console | None = None) -> None:
    """Notes, a table of speed-ups for each arm, memory and origin."""
    console = console or Console()
    for note in formatting.notes(record):
        console.print(Text(note, style="bold red"))
    found = formatting.comparisons(record)
    whole = formatting.whole(record)
    for arm in record.plan.others if whole else ():
        title = f"{arm} against {record.plan.baseline}: medians, speed-up [95 % interval]"
        table = Table(title=Text(title), show_lines=True)
        table.add_column("cell")
        for name in formatting.SHOWN.values():
            table.add_column(name, no_wrap=True)
        for i in whole:
            row = [found[arm, i, metric] for metric in formatting.SHOWN]
            texts = (f"{formatting.times(c)}\n{formatting.effect(c, chr(10))}" for c in row)
            shown = (Text(said, style=STYLES.get(c.verdict or "", "")) for said, c in zip(texts, row))
            table.add_row(formatting.cell(record.plan.cells[i]), *shown)
        console.print(table)
    for arm in record.plan.others:
        if lines := steady_rows.narrow(record, arm, formatting.effects(record, "\n")):
            title = f"{arm} against {record.plan.baseline}: {steady_rows.TITLE}"
            table = Table(*steady_rows.NARROW_HEAD, title=Text(title), show_lines=True)
            for line in lines:
                table.add_row(*map(Text, line))
            console.print(table)
    table = Table(title="servers")  # a column for each arm: one for each fact would not fit 80
    head, *lines = zip(formatting.MEMORY_HEAD, *formatting.memory(record))
    for name in head:
        table.add_column(Text(name), overflow="fold", no_wrap=name == head[0])
    for line in lines:
        table.add_row(*map(Text, line))
    console.print(table)
    if lines := quality.table(record):
        table = Table(*quality.HEAD, title=f"difference from {record.plan.baseline} on the same prompts")
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for said in filter(None, (formatting.started_once(record), formatting.origin(record))):
        console.print(Text(said, style="dim"))
    for said in sentence.sentences(record, found):
        console.print(Text(said, style="bold"))


def markdown(record: AbRecord) -> str:
    """Notes, a row of speed-ups for each cell, memory and origin."""
    found, arms = formatting.comparisons(record), record.plan.others
    shown = [(arm, metric) for arm in arms for metric in formatting.SHOWN]
    parts = [f"> **{plain(note)}**" for note in formatting.notes(record)]
    parts += [f"**{plain(said)}**" for said in sentence.sentences(record, found)]
    head = f"Speed-up over {plain(record.plan.baseline)} with its 95 % interval; above 1 is faster."
    parts.append(f"{head} {formatting.started_once(record)}".rstrip())
    if whole := formatting.whole(record):
        parts.append(
            table(
                ["cell", *(f"{plain(arm)}: {formatting.SHOWN[metric]}" for arm, metric in shown)],
                (
                    [
                        formatting.cell(record.plan.cells[i]),
                        *(plain(formatting.effect(found[arm, i, metric])) for arm, metric in shown),
                    ]
                    for i in whole
                ),
            )
        )
    if rows := steady_rows.table(record, formatting.effects(record)):
        parts.append(f"**{steady_rows.TITLE.capitalize()}.** {steady_rows.ABOUT}")
        parts.append(table(steady_rows.HEAD, (map(plain, row) for row in rows)))
    parts.append(table(formatting.MEMORY_HEAD, (map(plain, row) for row in formatting.memory(record))))
    if rows := quality.table(record):
        parts.append(f"Difference from {plain(record.plan.baseline)} on the same prompts.")
        parts.append(table(quality.HEAD, (map(plain, row) for row in rows)))
    parts.append(f"<sub>{plain(formatting.origin(record))}</sub>")
    return "\n\n".join(parts) + "\n"
