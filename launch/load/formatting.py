"""What every form of a load report says the same way: notes, the knee, rows of the table, origin."""

from __future__ import annotations

import statistics
from typing import Any

from sglang_hisa.launch.common import pruning, text
from sglang_hisa.launch.common.refusal import words
from sglang_hisa.launch.load import goodput

RATE_OFF = 0.1
"""Share by which an arrived rate may miss the one asked before a note says so."""
UNITS = {"concurrency": "at once", "rate": "a second"}


def stats(record: dict[str, Any]) -> dict[str, Any]:
    """The record's ``stats``; made now where it has none yet."""
    found: dict[str, Any] = record.get("stats") or goodput.compute(record)
    return found


def load(record: dict[str, Any], amount: float) -> str:
    """``8 at once`` or ``0.5 a second``; of conversations where they have turns."""
    unit = UNITS[record["plan"]["sweep"]["kind"]]
    return f"{amount:g} {'conversations ' * (record['plan']['workload']['turns'] > 1)}{unit}"


def head(record: dict[str, Any]) -> tuple[str, ...]:
    """Head of :func:`rows`; times in ms."""
    unit = load(record, 0).removeprefix("0 ")
    came = ("came",) if _by_rate(record) else ()
    times = ("TTFT p50 / p99 ms", "ITL p50 / p99 ms", "e2e p99 ms")
    return (unit, *came, "requests", *times, "output tok/s", "good", "good/s", "miss")


def _by_rate(record: dict[str, Any]) -> bool:
    """Whether loads are rates: what was asked is then not what arrived, at random moments."""
    return bool(record["plan"]["sweep"]["kind"] == "rate")


def came(point: dict[str, Any]) -> str:
    """The rate that arrived at a point; a dash where it is not known."""
    rate = point.get("arrived")
    return "–" if rate is None else f"{rate:.2f}"


def slo(record: dict[str, Any]) -> str:
    """``TTFT ≤ 2 s, ITL ≤ 0.05 s``."""
    return ", ".join(f"{_name(name)} ≤ {limit:g} s" for name, limit in record["slo"].items())


def _name(metric: str) -> str:
    return metric if metric == "e2e" else metric.upper()


def workload(record: dict[str, Any]) -> str:
    """``random: 8K in, 128 out``, with prefix and turns where there are any."""
    work = record["plan"]["workload"]
    if work["name"] == "file":
        return f"{work['prompts']} prompts of a file: {work['output_tokens']} out where it says nothing else"
    parts = [f"{text.tokens(work['input_tokens'])} in", f"{work['output_tokens']} out"]
    if work["name"] != "random":
        parts.append(f"{work['groups']} shared prefixes of {text.tokens(work['prefix_tokens'])}")
    if work["turns"] > 1:
        parts.append(f"{work['turns']} turns")
    return f"{work['name']}: {', '.join(parts)}"


def served(record: dict[str, Any]) -> str:
    """What the server says of itself."""
    server = record["server"]
    receipt = server["receipt"]
    kind = "stock, no HISA receipt"
    if receipt:
        changed = ", ".join(receipt.get("changed", ()))
        preset = receipt.get("preset", "") + (f" (changed: {changed})" if changed else "")
        kind = f"HISA {preset}".rstrip() + ("" if receipt.get("active") else ", NOT active")
    return f"SGLang {server['version']} ({kind}), {server['kv_tokens']:,} KV tokens"


def verdict(record: dict[str, Any]) -> str:
    """The knee in a sentence."""
    found = stats(record)
    if not found["points"]:
        return "No load was measured."
    if not record["slo"]:
        return "No knee: no limits were given (--slo ttft=2,itl=0.05)."
    share = f"at least {found['enough']:.0%} of the requests met {slo(record)}"
    if found["knee"] is None:
        return f"No knee: at no measured load {share}."
    at = load(record, found["knee"])
    if _by_rate(record):
        at += f" asked, {came(next(p for p in found['points'] if p['load'] == found['knee']))} came"
    if record["complete"] and found["knee"] == max(p["load"] for p in found["points"]):
        return f"Knee: at least {at}, the highest load measured: there {share}."
    return f"Knee: {at}, the highest measured load at which {share}."


def notes(record: dict[str, Any]) -> list[str]:
    """What a reader must know before any number."""
    out, found = [], stats(record)
    if not record["complete"]:
        why = f" ({record['stopped_by']})" if record["stopped_by"] else ""
        want = len(record["plan"]["sweep"]["loads"])
        out.append(f"PARTIAL{why}: {len(found['points'])} of {want} loads")
    asked, single = record["plan"]["workload"]["input_tokens"], record["plan"]["workload"]["turns"] == 1
    for point, kept in zip(found["points"], record["points"]):
        at = f"At {load(record, point['load'])}"
        rate = point.get("arrived")
        if rate is not None and abs(rate / point["load"] - 1) > RATE_OFF:
            out.append(f"{at}: {rate:.2f} came; more --seconds or --requests come closer to what was asked")
        if point["failed"]:
            reason = next(r["error"] for r in kept["requests"] if r["error"])
            out.append(f"{at}: {point['failed']} of {point['sent']} requests failed ({words(reason)})")
        if point["unseen"]:
            out.append(f"{at}: {point['unseen']} answers without a first token (ids without text?)")
        lengths = [r["input"] for r in kept["requests"] if r["error"] is None]
        # A conversation's later turns follow earlier ones; older records say the first's length.
        if asked and single and lengths and abs(statistics.fmean(lengths) / asked - 1) > 0.1:
            between = f"{min(lengths)} to {max(lengths)}"
            out.append(f"{at}: prompts of {between} tokens, not {asked}: the tokenizer cuts random text so")
        if kept["retractions"]:
            out.append(f"{at}: {kept['retractions']} retractions, the KV pool was too small for the load")
        below = found["knee"] is not None and point["load"] < found["knee"]
        if below and point["goodput_share"] < found["enough"]:
            out.append(f"{at}: fewer good requests than at the knee above it; measure again with more")
    if idle := pruning.note("the server", record.get("rows")):
        out.append(idle)
    return out


def facts(record: dict[str, Any]) -> list[str]:
    """Plain remarks: how to read quantiles, and what the server did not tell."""
    points = stats(record)["points"]
    out = []
    few = min((p["sent"] for p in points), default=0)
    if points and few < 100:
        out.append(f"A point of {few} requests has no 99th percentile of its own: p99 is then the slowest.")
    sent = [r for kept in record["points"] for r in kept["requests"] if r["error"] is None]
    if sent and record["plan"]["workload"]["turns"] == 1:
        cached = sum(r["cached"] or 0 for r in sent) / sum(r["input"] for r in sent)
        out.append(f"{cached:.0%} of the prompt tokens came from the prefix cache.")
    if record["plan"]["workload"]["name"] == "file":
        many = record["plan"]["workload"]["prompts"]
        total = sum(p["sent"] for p in points)
        again = f"; {total} requests were sent, so some came again" if total > many else ""
        out.append(f"The file has {many} prompts, sent as they are, without a chat template{again}.")
    if any(kept["retractions"] is None for kept in record["points"]):
        out.append("Retractions are not known: the server runs without --enable-metrics.")
    return out


def _ms(pair: dict[str, float | None], *names: str) -> str:
    values = [pair[name] for name in names]
    return " / ".join(
        "–" if v is None else f"{v * 1e3:,.0f}" if v >= 0.1 else f"{v * 1e3:,.1f}" for v in values
    )


def rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each point under :func:`head`."""
    out: list[tuple[str, ...]] = []
    for p in stats(record)["points"]:
        good = ("–", "–", "–")
        if p["goodput_share"] is not None:
            missed = [f"{_name(n)} {1 - share:.0%}" for n, share in p["met"].items() if share < 1]
            good = (f"{p['goodput_share']:.0%}", f"{p['goodput_s']:.2f}", ", ".join(missed) or "none")
        out.append(
            (
                f"{p['load']:g}" + " (knee)" * (p["load"] == stats(record)["knee"]),
                *((came(p),) if _by_rate(record) else ()),
                f"{p['sent'] - p['failed']} of {p['sent']}" if p["failed"] else str(p["sent"]),
                _ms(p["ttft"], "p50", "p99"),
                _ms(p["itl"], "p50", "p99"),
                _ms(p["e2e"], "p99"),
                f"{p['output_tok_s']:,.1f}",
                *good,
            )
        )
    return out


def origin(record: dict[str, Any]) -> str:
    """One line: model, machine, versions, commit, date."""
    return text.origin(record["provenance"], record["server"]["model"])
