"""What every form of an evaluation's report says the same way: notes, cells of the table, arms, origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglang_hisa.launch.common import pruning, text

SURE = 0.05
"""A loss is called one below this p."""
LOST, WON = "lost", "won"
NONE = "–"
ARMS_HEAD = ("arm", "serves", "setting", "answers")


@dataclass(frozen=True)
class Cell:
    """One value of the table; ``verdict`` is lost, won, or empty where the baseline answers as well."""

    text: str
    verdict: str = ""


def scored(record: dict[str, Any]) -> bool:
    """Whether answers have scores between 0 and 1, and are not just right or wrong."""
    return bool(record["plan"].get("suite") == "longbench")


def notes(record: dict[str, Any]) -> list[str]:
    """What a reader must know before any number."""
    found = [f"REFUSED: {why}" for why in record["refusals"]]
    for name, arm in record["arms"].items():
        if tail := arm.get("log_tail"):
            found += [f"arm {name}, end of its log: {line[:200]}" for line in tail.splitlines()[-3:]]
        if idle := pruning.note(f"arm {name}", arm.get("rows")):
            found.append(idle)
    if not record.get("complete", True):
        found.append(f"PARTIAL: {len(record['answers']):,} answers, then it ended")
    return found


def left_out(record: dict[str, Any]) -> list[str]:
    """Prompts that do not count, as they are longer than the longest context."""
    longest = max(record["plan"]["contexts"])
    found = {
        f"{task}: {left} of {asked} prompts are longer than {longest} tokens and left out"
        for facts in record["arms"].values()
        for task, (left, asked) in facts.get("left_out", {}).items()
        if left
    }
    return sorted(found)


def reading(record: dict[str, Any]) -> str:
    """How to read the table."""
    baseline = record["plan"]["baseline"]
    if scored(record):
        return (
            f"mean score [95 % interval]; points above {baseline} [95 % interval] on the same prompts, "
            f"coloured where p < {SURE}"
        )
    return f"exact answers [95 % interval]; -lost +won against {baseline}, coloured where p < {SURE}"


def head(record: dict[str, Any]) -> tuple[str, ...]:
    """Head of :func:`table`."""
    first = ("task", "context up to", "prompts") if scored(record) else ("task", "context")
    return (*first, *record["plan"]["arms"])


def table(record: dict[str, Any]) -> list[list[Cell]]:
    """A row for each task and context under :func:`head`; of scores, those that have any prompt."""
    plan = record["plan"]
    found = {(row["arm"], row["task"], row["context"]): row for row in record["rows"]}
    lines = []
    for task in plan["tasks"]:
        for context in sorted(plan["contexts"]) if scored(record) else plan["contexts"]:
            rows = [found.get((arm, task, context)) for arm in plan["arms"]]
            first = [Cell(task), Cell(str(context))]
            if scored(record):
                counts = sorted({str(row["n"]) for row in rows if row})
                if not counts:
                    continue
                first.append(Cell("/".join(counts)))
            lines.append([*first, *(_cell(row, record) for row in rows)])
    return lines


def _cell(row: dict[str, Any] | None, record: dict[str, Any]) -> Cell:
    if row is None:
        return Cell(NONE)
    digits = 1 if scored(record) else 0
    shown = f"{row['accuracy']:.{digits}%} [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"
    if row["arm"] == record["plan"]["baseline"] or not (row["lost"] or row["won"]):
        return Cell(shown)
    if not scored(record):
        worse = row["lost"] > row["won"]
        verdict = (LOST if worse else WON) if row["p"] < SURE else ""
        return Cell(f"{shown} -{row['lost']} +{row['won']}", verdict)
    verdict = (LOST if row["difference"] < 0 else WON) if row["p"] < SURE else ""
    known = row["difference_low"] is not None
    bounds = f" [{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]" if known else ""
    return Cell(f"{shown} {100 * row['difference']:+.1f}{bounds} p {row['p']:.2g}", verdict)


def _served(receipt: dict[str, Any] | None, facts: dict[str, Any]) -> str:
    if receipt:
        return "HISA" if receipt.get("active") else "HISA, NOT active"
    return "stock, no HISA receipt" if "receipt" in facts else "not known"


def arms(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each arm under ``ARMS_HEAD``; of servers that ran already, the setting is not known."""
    counts = {name: 0 for name in record["plan"]["arms"]}
    for answer in record["answers"]:
        counts[answer["arm"]] = counts.get(answer["arm"], 0) + 1
    given = record["plan"].get("settings", {})
    lines: list[tuple[str, ...]] = []
    for name in record["plan"]["arms"]:
        facts = record["arms"].get(name) or {}
        served = _served(facts.get("receipt"), facts)
        lines.append(
            (
                name,
                served,
                NONE if name.startswith("http") else text.setting(given.get(name)),
                f"{counts[name]:,}",
            )
        )
    return lines


def title(record: dict[str, Any]) -> str:
    """``stock, balanced: needle, tracking``."""
    suites = {"longbench": "LongBench", "ruler2": "RULER2"}
    suite = suites.get(record["plan"].get("suite"), "retrieval")
    return f"{', '.join(record['plan']['arms'])}: {suite}"


def origin(record: dict[str, Any]) -> str:
    """One line: model, machine, versions, commit, answers, date."""
    return text.origin(record["provenance"], record["model"], f"{len(record['answers']):,} answers")
