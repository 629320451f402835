"""The folder of an evaluation: the record, its plots, and the table on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.launch.common import files
from sglang_hisa.launch.eval import plots, stats

NAME, KIND, VERSION = "quality.json", "hisa-eval", 1
_KEYS = ("plan", "arms", "answers", "refusals", "complete", "provenance", "model")
SURE = 0.05
"""A loss is called one below this p."""


def save(record: dict[str, Any], folder: Path) -> None:
    """Write the record, with its rows made anew; see :func:`files.save`."""
    record["rows"] = stats.rows(record["answers"], record["plan"]["baseline"])
    files.save(record, folder, NAME, indent=None)


def load(source: Path) -> dict[str, Any]:
    """A record by its file or folder; raises as :func:`files.load`."""
    return files.load(source, KIND, VERSION, NAME, _KEYS)


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """The plots. Raises ``ImportError`` without matplotlib (``pip install sglang-hisa[bench]``)."""
    folder.mkdir(parents=True, exist_ok=True)
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


def _score_cell(row: dict[str, Any] | None, baseline: str) -> Text:
    if row is None:
        return Text("–")
    text = f"{row['accuracy']:.1%} [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"
    if row["arm"] == baseline or not (row["lost"] or row["won"]):
        return Text(text)
    style = ("red" if row["difference"] < 0 else "green") if row["p"] < SURE else ""
    known = row["difference_low"] is not None
    bounds = f" [{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]" if known else ""
    return Text(f"{text} {100 * row['difference']:+.1f}{bounds} p {row['p']:.2g}", style=style)


def _print_scores(record: dict[str, Any], console: Console) -> None:
    """Mean scores; the difference to the baseline on the same prompts, in points of 100; what is left out."""
    arms, baseline = record["plan"]["arms"], record["plan"]["baseline"]
    found = {(r["arm"], r["task"], r["context"]): r for r in record["rows"]}
    title = (
        f"mean score [95 % interval]; points above {baseline} [95 % interval] on the same prompts, "
        f"coloured where p < {SURE}"
    )
    table = Table("task", "context up to", "prompts", *arms, title=Text(title))
    for task in record["plan"]["tasks"]:
        for context in sorted(record["plan"]["contexts"]):
            rows = [found.get((arm, task, context)) for arm in arms]
            counts = {str(row["n"]) for row in rows if row}
            if counts:
                cells = (_score_cell(row, baseline) for row in rows)
                table.add_row(task, str(context), "/".join(sorted(counts)), *cells)
    console.print(table)
    longest = max(record["plan"]["contexts"])
    notes = {
        f"{task}: {left} of {asked} prompts are longer than {longest} tokens and left out"
        for facts in record["arms"].values()
        for task, (left, asked) in facts.get("left_out", {}).items()
        if left
    }
    for note in sorted(notes):
        console.print(Text(note, style="yellow"))


def print_report(record: dict[str, Any], console: Console | None = None) -> None:
    """Accuracy by task and context; against the baseline, answers lost and won on the same prompts."""
    console = console or Console()
    for note in record["refusals"]:
        console.print(Text(f"REFUSED: {note}", style="bold red"))
    if record["plan"].get("suite") == "longbench":
        _print_scores(record, console)
        return
    arms, baseline = record["plan"]["arms"], record["plan"]["baseline"]
    found = {(r["arm"], r["task"], r["context"]): r for r in record["rows"]}
    title = f"exact answers [95 % interval]; -lost +won against {baseline}, coloured where p < {SURE}"
    table = Table("task", "context", *arms, title=Text(title))
    for task in record["plan"]["tasks"]:
        for context in record["plan"]["contexts"]:
            cells = (_cell(found.get((arm, task, context)), baseline) for arm in arms)
            table.add_row(task, str(context), *cells)
    console.print(table)
