"""What every form of a load report says the same way: notes, the knee, rows of the table, origin."""

from __future__ import annotations

import statistics
from dataclasses import asdict

from sglang_hisa.launch.common import pruning, text
from sglang_hisa.launch.common.refusal import words
from sglang_hisa.launch.load.goodput import Point
from sglang_hisa.launch.load.record import LoadRecord

RATE_OFF = 0.1
"""Share by which an arrived rate may miss the one asked before a note says so."""
UNITS = {"concurrency": "at once", "rate": "a second"}


def load(record: LoadRecord, amount: float) -> str:
    """``8 at once`` or ``0.5 a second``; of conversations where they have turns."""
    unit = UNITS[record.plan.sweep.kind]
    return f"{amount:g} {'conversations ' * record.plan.conversations}{unit}"


def head(record: LoadRecord) -> tuple[str, ...]:
    """Head of :func:`rows`; times in ms."""
    unit = load(record, 0).removeprefix("0 ")
    came = ("arrived",) if record.plan.by_rate else ()
    times = ("TTFT p50 / p99 ms", "ITL p50 / p99 ms", "e2e p99 ms")
    return (unit, *came, "requests", *times, "output tok/s", "good", "good/s", "miss")


def came(point: Point) -> str:
    """The rate that arrived at a point; a dash where it is not known."""
    return "–" if point.arrived is None else f"{point.arrived:.2f}"


def slo(record: LoadRecord) -> str:
    """``TTFT ≤ 2 s, ITL ≤ 0.05 s``."""
    return ", ".join(f"{_name(name)} ≤ {limit:g} s" for name, limit in record.slo.items())


def _name(metric: str) -> str:
    return metric if metric == "e2e" else metric.upper()


def workload(record: LoadRecord) -> str:
    """``random: 8K in, 128 out``, with prefix and turns where there are any."""
    work = record.plan.workload
    if work.name == "file":
        return f"{work.prompts} prompts of a file: {work.output_tokens} out where it says nothing else"
    parts = [f"{text.tokens(work.input_tokens)} in", f"{work.output_tokens} out"]
    if work.name != "random":
        parts.append(f"{work.groups} shared prefixes of {text.tokens(work.prefix_tokens)}")
    if record.plan.conversations:
        parts.append(f"{work.turns} turns")
    return f"{work.name}: {', '.join(parts)}"


def served(record: LoadRecord) -> str:
    """What the server says of itself."""
    kind = "stock, no HISA receipt"
    if hisa := record.server.hisa:
        preset = hisa.preset + (f" (changed: {', '.join(hisa.changed)})" if hisa.changed else "")
        kind = f"HISA {preset}".rstrip() + ("" if hisa.active else ", NOT active")
    return f"SGLang {record.server.version} ({kind}), {record.server.kv_tokens:,} KV tokens"


def verdict(record: LoadRecord) -> str:
    """The knee in a sentence."""
    found = record.stats
    if not found.points:
        return "No load was measured."
    if not record.slo:
        return "No knee: no limits were given (--slo ttft=2,itl=0.05)."
    share = f"at least {found.enough:.0%} of the requests met {slo(record)}"
    if found.knee is None:
        return f"No knee: at no measured load {share}."
    at = load(record, found.knee)
    if record.plan.by_rate:
        at += f" asked, {came(next(p for p in found.points if p.load == found.knee))} arrived"
    if record.complete and found.knee == max(p.load for p in found.points):
        return f"Knee: at least {at}, the highest load measured: there {share}."
    return f"Knee: {at}, the highest measured load at which {share}."


def notes(record: LoadRecord) -> list[str]:
    """What a reader must know before any number."""
    out, found = [], record.stats
    if not record.complete:
        why = f" ({record.stopped_by})" if record.stopped_by else ""
        out.append(f"PARTIAL{why}: {len(found.points)} of {len(record.plan.sweep.loads)} loads")
    asked, single = record.plan.workload.input_tokens, not record.plan.conversations
    for point, kept in zip(found.points, record.points):
        at = f"At {load(record, point.load)}"
        if point.arrived is not None and abs(point.arrived / point.load - 1) > RATE_OFF:
            more = "more --seconds or --requests would come closer to what was asked"
            out.append(f"{at}: {point.arrived:.2f} arrived; {more}")
        if point.failed:
            out.append(f"{at}: {point.failed} of {point.sent} requests failed ({words(kept.failed[0])})")
        if point.unseen:
            out.append(f"{at}: {point.unseen} answers without a first token (token ids without text?)")
        lengths = [request.input for request in kept.answered]
        # A conversation's later turns follow earlier ones; older records say the first's length.
        if asked and single and lengths and abs(statistics.fmean(lengths) / asked - 1) > 0.1:
            between = f"{min(lengths)} to {max(lengths)}"
            out.append(
                f"{at}: prompts of {between} tokens, not {asked}: the tokenizer cuts random text differently"
            )
        if kept.retractions:
            out.append(f"{at}: {kept.retractions} retractions: the KV pool was too small for the load")
        if found.knee is not None and point.load < found.knee and not point.good:
            out.append(f"{at}: fewer good requests than at the higher knee; measure again with more requests")
    if idle := pruning.note("the server", record.rows):
        out.append(idle)
    return out


def facts(record: LoadRecord) -> list[str]:
    """Plain remarks: how to read quantiles, and what the server did not tell."""
    points = record.stats.points
    out = []
    few = min((p.sent for p in points), default=0)
    if points and few < 100:
        out.append(
            f"A load of {few} requests has no 99th percentile of its own; p99 is then the slowest request."
        )
    sent = [request for kept in record.points for request in kept.answered]
    if sent and not record.plan.conversations:
        cached = sum(request.cached or 0 for request in sent) / sum(request.input for request in sent)
        out.append(f"{cached:.0%} of the prompt tokens came from the prefix cache.")
    if (many := record.plan.workload.prompts) is not None:
        total = sum(p.sent for p in points)
        again = f"; {total} requests were sent, so some were sent again" if total > many else ""
        out.append(f"The file has {many} prompts, sent as they are, without a chat template{again}.")
    if any(kept.retractions is None for kept in record.points):
        out.append("Retractions are not known: the server runs without --enable-metrics.")
    return out


def _ms(*values: float | None) -> str:
    return " / ".join(
        "–" if v is None else f"{v * 1e3:,.0f}" if v >= 0.1 else f"{v * 1e3:,.1f}" for v in values
    )


def rows(record: LoadRecord) -> list[tuple[str, ...]]:
    """A row for each point under :func:`head`."""
    out: list[tuple[str, ...]] = []
    for p in record.stats.points:
        good = ("–", "–", "–")
        if p.goodput_share is not None:
            missed = [f"{_name(n)} {1 - share:.0%}" for n, share in (p.met or {}).items() if share < 1]
            good = (f"{p.goodput_share:.0%}", f"{p.goodput_s:.2f}", ", ".join(missed) or "none")
        out.append(
            (
                f"{p.load:g}" + " (knee)" * (p.load == record.stats.knee),
                *((came(p),) if record.plan.by_rate else ()),
                f"{p.sent - p.failed} of {p.sent}" if p.failed else str(p.sent),
                _ms(p.ttft.p50, p.ttft.p99),
                _ms(p.itl.p50, p.itl.p99),
                _ms(p.e2e.p99),
                f"{p.output_tok_s:,.1f}",
                *good,
            )
        )
    return out


def origin(record: LoadRecord) -> str:
    """One line: model, machine, versions, commit, date."""
    return text.origin(asdict(record.provenance), record.server.model)
