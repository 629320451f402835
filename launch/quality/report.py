"""The folder of an evaluation: the record, its plots, and the table on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.launch.quality import plots, stats
from sglang_hisa.launch.report import files

NAME, KIND, VERSION = "quality.json", "hisa-eval", 1
SURE = 0.05
"""A loss is called one below this p."""


def save(record: dict[str, Any], folder: Path) -> None:
    """Write the record, with its rows made anew; see :func:`files.save`."""
    record["rows"] = stats.rows(record["answers"], record["plan"]["baseline"])
    files.save(record, folder, NAME, indent=None)


def load(folder: Path) -> dict[str, Any]:
    """The record of ``folder``; raises as :func:`files.load`."""
    return files.load(folder, KIND, VERSION, NAME)


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """The plots. Raises ``ImportError`` without matplotlib (``pip install sglang-hisa[bench]``)."""
    written = [folder / "accuracy.png"]
    plots.by_length(record, written[0])
    if "needle" in record["plan"]["tasks"]:
        written.append(folder / "needle.png")
        plots.needle_map(record, written[1])
    return written


def _cell(row: dict[str, Any] | None, baseline: str) -> Text:
    if row is None:
        return Text("–")
    text = f"{row['accuracy']:.0%} [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"
    if row["arm"] == baseline or not (row["lost"] or row["won"]):
        return Text(text)
    sure = row["p"] < SURE
    style = ("red" if row["lost"] > row["won"] else "green") if sure else ""
    return Text(f"{text} -{row['lost']} +{row['won']}", style=style)


def print_report(record: dict[str, Any], console: Console | None = None) -> None:
    """Accuracy by task and context; against the baseline, answers lost and won on the same prompts."""
    console = console or Console()
    for note in record["refusals"]:
        console.print(Text(f"REFUSED: {note}", style="bold red"))
    arms, baseline = record["plan"]["arms"], record["plan"]["baseline"]
    found = {(r["arm"], r["task"], r["context"]): r for r in record["rows"]}
    title = f"exact answers [95 % interval]; -lost +won against {baseline}, coloured where p < {SURE}"
    table = Table("task", "context", *arms, title=Text(title))
    for task in record["plan"]["tasks"]:
        for context in record["plan"]["contexts"]:
            cells = (_cell(found.get((arm, task, context)), baseline) for arm in arms)
            table.add_row(task, str(context), *cells)
    console.print(table)
