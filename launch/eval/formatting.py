"""What every form of an evaluation's report says the same way: notes, cells of the table, arms, origin."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from sglang_hisa.launch.common import pruning, text
from sglang_hisa.launch.eval.record import Accuracy, EvalArm, EvalRecord

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


def notes(record: EvalRecord) -> list[str]:
    """What a reader must know before any number."""
    found = [f"REFUSED: {why}" for why in record.refusals]
    for name, arm in record.arms.items():
        lines = (arm.log_tail or "").splitlines()
        found += [f"arm {name}, end of its log: {line[:200]}" for line in lines[-3:]]
        if idle := pruning.note(f"arm {name}", arm.rows):
            found.append(idle)
    if not record.complete:
        found.append(f"PARTIAL: {len(record.answers):,} answers, then it ended")
    return found


def left_out(record: EvalRecord) -> list[str]:
    """Prompts that do not count, as they are longer than the longest context."""
    longest = max(record.plan.contexts)
    found = {
        f"{task}: {left} of {asked} prompts are longer than {longest} tokens and left out"
        for facts in record.arms.values()
        for task, (left, asked) in (facts.left_out or {}).items()
        if left
    }
    return sorted(found)


def reading(record: EvalRecord) -> str:
    """How to read the table."""
    baseline = record.plan.baseline
    if record.plan.scored:
        return (
            f"mean score [95 % interval]; points above {baseline} [95 % interval] on the same prompts, "
            f"coloured where p < {SURE}"
        )
    return f"exact answers [95 % interval]; -lost +won against {baseline}, coloured where p < {SURE}"


def head(record: EvalRecord) -> tuple[str, ...]:
    """Head of :func:`table`."""
    first = ("task", "context up to", "prompts") if record.plan.scored else ("task", "context")
    return (*first, *record.plan.arms)


def table(record: EvalRecord) -> list[list[Cell]]:
    """A row for each task and context under :func:`head`; of scores, those that have any prompt."""
    plan = record.plan
    found = {(row.arm, row.task, row.context): row for row in record.rows}
    lines = []
    for task in plan.tasks:
        for context in sorted(plan.contexts) if plan.scored else plan.contexts:
            rows = [found.get((arm, task, context)) for arm in plan.arms]
            first = [Cell(task), Cell(str(context))]
            if plan.scored:
                counts = sorted({str(row.n) for row in rows if row})
                if not counts:
                    continue
                first.append(Cell("/".join(counts)))
            lines.append([*first, *(_cell(row, record) for row in rows)])
    return lines


def _cell(row: Accuracy | None, record: EvalRecord) -> Cell:
    if row is None:
        return Cell(NONE)
    shown = row.text
    if record.plan.scored:
        shown = f"{row.accuracy:.1%} [{row.ci_low:.0%}, {row.ci_high:.0%}]"
    if row.arm == record.plan.baseline or not (row.lost or row.won):
        return Cell(shown)
    if row.difference is None:
        verdict = (LOST if row.lost > row.won else WON) if row.p < SURE else ""
        return Cell(f"{shown} -{row.lost} +{row.won}", verdict)
    verdict = (LOST if row.difference < 0 else WON) if row.p < SURE else ""
    bounds = ""
    if row.difference_low is not None and row.difference_high is not None:
        bounds = f" [{100 * row.difference_low:+.1f}, {100 * row.difference_high:+.1f}]"
    return Cell(f"{shown} {100 * row.difference:+.1f}{bounds} p {row.p:.2g}", verdict)


def _served(facts: EvalArm) -> str:
    if facts.served:
        return "HISA" if facts.served.active else "HISA, NOT active"
    return "stock, no HISA receipt" if facts.known else "not known"


def arms(record: EvalRecord) -> list[tuple[str, ...]]:
    """A row for each arm under ``ARMS_HEAD``; of servers that ran already, the setting is not known."""
    counts = Counter(answer.arm for answer in record.answers)
    lines: list[tuple[str, ...]] = []
    for name in record.plan.arms:
        setting = NONE if name.startswith("http") else text.setting(record.plan.settings.get(name))
        lines.append((name, _served(record.arms.get(name, EvalArm())), setting, f"{counts[name]:,}"))
    return lines


def title(record: EvalRecord) -> str:
    """``stock, balanced: needle, tracking``."""
    suites = {"longbench": "LongBench", "ruler2": "RULER2"}
    return f"{', '.join(record.plan.arms)}: {suites.get(record.plan.suite, 'retrieval')}"


def origin(record: EvalRecord) -> str:
    """One line: model, machine, versions, commit, answers, date."""
    return text.origin(asdict(record.provenance), record.model, f"{len(record.answers):,} answers")
