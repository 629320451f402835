"""What every form of an A/B report says the same way: names, notes, memory, origin."""

from __future__ import annotations

import re

from sglang_hisa.launch.ab import scoring, stats, steady_rows
from sglang_hisa.launch.ab.plan import Cell
from sglang_hisa.launch.ab.record import AbRecord, ArmFacts, Comparison
from sglang_hisa.launch.common import pruning, text

SHOWN = {"ttft": "TTFT", "itl": "ITL", "throughput": "throughput"}


def cell(spec: Cell) -> str:
    """``8K in, 32 out, 1 at once``."""
    return f"{spec.prompt} in, {spec.output_tokens} out, {spec.concurrency} at once"


def whole(record: AbRecord) -> list[int]:
    """Cells compared by the whole run; those with a shared prefix are by their steady state alone."""
    return [i for i, spec in enumerate(record.plan.cells) if not spec.prefix_tokens]


def comparisons(record: AbRecord) -> dict[tuple[str, int, str], Comparison]:
    """``stats.comparisons`` by arm, cell and metric; made now where the record has none yet."""
    found = record.stats or stats.compute(record)
    return {(c.arm, c.cell, c.metric): c for c in found.comparisons}


def speedup(found: Comparison) -> str:
    """``1.50× [1.46, 1.54]``; without an interval where too few pairs give none."""
    if found.speedup is None:
        return "–"
    interval = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.speedup:.2f}×{interval}"


def effect(found: Comparison, separator: str = " ") -> str:
    """``1.50× [1.46, 1.54] faster``; ``separator`` stands before the verdict."""
    verdict = separator + found.verdict if found.speedup and found.verdict else ""
    return speedup(found) + verdict


def effects(record: AbRecord, separator: str = " ") -> dict[tuple[str, int, str], str]:
    """:func:`effect` by arm, cell and metric."""
    return {place: effect(found, separator) for place, found in comparisons(record).items()}


def times(found: Comparison) -> str:
    """``17.90 → 8.99 s``: medians of the baseline and the arm; a dash where one has none."""
    if found.baseline_median is None or found.arm_median is None:
        return "–"
    pair = (found.baseline_median, found.arm_median)
    if found.metric.endswith("throughput"):
        return " → ".join(f"{amount:,.0f}" for amount in pair) + " tok/s"
    factor, unit = (1, "s") if max(pair) >= 1 else (1e3, "ms")
    return " → ".join(f"{amount * factor:.2f}" for amount in pair) + f" {unit}"


def quantity(metric: str, amount: float | None) -> str:
    """A median with its unit."""
    if amount is None:
        return "–"
    return f"{amount:,.0f} tok/s" if metric.endswith("throughput") else f"{amount * 1e3:,.2f} ms"


def notes(record: AbRecord) -> list[str]:
    """What a reader must know before any number: refusals, a partial run, failed requests."""
    plan, have = record.plan, record.measurements
    out = [f"REFUSED, no verdict is given: {why}" for why in record.refusals]
    out += [f"answers not compared: {why}" for why in record.quality_problems]
    if not record.complete:
        want = plan.rounds * len(plan.arms) * len(plan.cells)
        why = f" ({record.stopped_by})" if record.stopped_by else ""
        out.append(f"PARTIAL{why}: {len(have)} of {want} measurements")
        for name, arm in record.arms.items():
            if arm.killed:  # its log ends with whatever it did then
                out.append(f"arm {name} {arm.killed}; its log: server-{name}.log")
            elif arm.log_tail:
                out.append(last_error(name, arm.log_tail, plan.together))
    idle = (pruning.note(f"arm {name}", arm.rows) for name, arm in record.arms.items())
    pieces = (scoring.note(name, arm.scoring, together=plan.together) for name, arm in record.arms.items())
    out += [note for note in (*idle, *pieces) if note]
    for name in plan.arms:
        count = sum(m.failed for m in have if m.arm == name)
        if count:
            out.append(f"arm {name}: {count} measurements left out because requests failed")
    return [*out, *steady_rows.notes(record)]


def started_once(record: AbRecord) -> str:
    """What servers that were up together mean for the verdicts; empty where arms were started anew."""
    if not record.plan.together:
        return ""
    limit = f"{100 * stats.START - 100:.0f} %"
    once = "once a session" if record.resumed else "once"
    return (
        f"Each server was started {once}: a difference up to {limit} may be that of two starts of one arm, "
        "and gets no verdict."
    )


def last_error(arm: str, log_tail: str, together: bool) -> str:
    """The last error that a dead server's log names, or its last line; and the way out of a full GPU."""
    lines = log_tail.strip().splitlines() or [""]
    found = [line for line in lines if re.search(r"\b\w*(Error|Exception)\b", line)]
    line = (found or lines)[-1].strip()
    hint = ""
    if together and "out of memory" in log_tail:
        hint = "; the servers share a GPU: fewer --arms, a smaller --max-total-tokens, or not --together"
    return f"arm {arm}, end of its log: {line if len(line) <= 200 else line[:200] + '...'}{hint}"


MEMORY_HEAD = (
    *("arm", "setting", "HISA receipt", "candidate share", "KV tokens"),
    *("page summaries", "retractions", "server start"),
)


def memory(record: AbRecord) -> list[tuple[str, ...]]:
    """A row for each arm under ``MEMORY_HEAD``; an arm that never started has dashes."""
    rows: list[tuple[str, ...]] = []
    for name in record.plan.arms:
        arm = record.arms.get(name, ArmFacts())
        shares = (f"{phase} {share:.2f}" for phase, share in pruning.shares(arm.rows).items())
        rows.append(
            (
                name,
                text.setting(arm.setting),
                "yes" if arm.receipt else "none",
                ", ".join(shares) or "–",
                "–" if arm.kv_tokens is None else f"{arm.kv_tokens:,}",
                "–" if arm.summary_bytes is None else f"{arm.summary_bytes / text.K**2:,.1f} MiB",
                "–" if arm.retractions is None else str(arm.retractions),
                ", ".join(f"{s:.0f} s" for s in arm.starts_s) or "–",
            )
        )
    return rows


def origin(record: AbRecord) -> str:
    """One line: model, machine, versions, commit, rounds, how the servers shared the machine, date."""
    more = [f"{record.plan.rounds} rounds", *(["servers together"] if record.plan.together else [])]
    return text.origin(vars(record.provenance), record.model, *more)
