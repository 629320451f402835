"""Two or more load runs side by side: how many users each serves within a limit, and the ratio.

Users at a limit on ITL are read off the steady states (decode while all requests decode), on a straight line
between two measured loads; goodput's knee counts whole requests, at measured loads only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from sglang_hisa.launch.common.typed import as_json
from sglang_hisa.launch.load import formatting, goodput
from sglang_hisa.launch.load.record import LoadRecord

SAME: tuple[tuple[str, Callable[[LoadRecord], object]], ...] = (
    ("what is sent", lambda record: as_json(record.plan.workload)),
    ("the kind of load", lambda record: record.plan.sweep.kind),
    ("the model", lambda record: record.server.model.rstrip("/").rsplit("/", 1)[-1]),
    ("SGLang", lambda record: record.server.version),
    ("the GPU", lambda record: record.provenance.gpu),
)


def problems(records: Sequence[LoadRecord]) -> list[str]:
    """Why runs cannot be compared; the first is what the others are compared with."""
    out = []
    for number, record in enumerate(records[1:], start=2):
        for what, of in SAME:
            if of(records[0]) != of(record):
                out.append(f"{what} differs: run 1 has {of(records[0])}, run {number} {of(record)}")
    return out


def names(records: Sequence[LoadRecord]) -> list[str]:
    """``stock``, or HISA's preset as the server's receipt says; numbered where two are alike."""
    out: list[str] = []
    for record in records:
        hisa = record.server.hisa
        name = (hisa.preset or "HISA") if hisa and hisa.active else "stock"
        again = sum(one.partition("#")[0] == name for one in out)
        out.append(f"{name}#{again + 1}" if again else name)
    return out


def users(measured: Sequence[tuple[float, float | None]], limit: float) -> tuple[float, bool] | None:
    """Requests at once whose ITL at steady state is within ``limit`` seconds, of loads with theirs (or None).

    Returns:
        how many, and whether it is at least that many: the heaviest load measured is within the limit too.
        None: not even the lightest load is, or none was measured at steady state.
    """
    known = [(load, itl) for load, itl in measured if itl is not None]
    if not known or known[0][1] > limit:
        return None
    for (low, fast), (high, slow) in itertools.pairwise(known):
        if slow > limit:
            return low + (high - low) * (limit - fast) / (slow - fast), False
    return known[-1][0], True


HEAD = ("at once", "run", "ITL p50 ms", "output tok/s", "TTFT p50 ms", "good")


def rows(records: Sequence[LoadRecord]) -> list[tuple[str, ...]]:
    """A row for each load and run under ``HEAD``; ITL and tokens/s at steady state, ratios to the first."""
    stats = [{p.load: p for p in record.stats.points} for record in records]
    out: list[tuple[str, ...]] = []
    for load in sorted({load for points in stats for load in points}):
        base = stats[0].get(load)
        for name, points in zip(names(records), stats):
            if (point := points.get(load)) is None:
                continue
            still, was = point.steady, base and base.steady
            itl = "–" if still is None else f"{still.itl_p50 * 1e3:.2f}"
            rate = "–" if still is None else f"{still.output_tok_s:,.0f}"
            if still and was and point is not base:
                itl += f" ({was.itl_p50 / still.itl_p50:.2f}×)"
                rate += f" ({still.output_tok_s / was.output_tok_s:.2f}×)"
            ttft = point.ttft.p50
            good = "–" if point.goodput_share is None else f"{point.goodput_share:.0%}"
            out.append((f"{load:g}", name, itl, rate, "–" if ttft is None else f"{ttft * 1e3:,.0f}", good))
    return out


def verdicts(records: Sequence[LoadRecord]) -> list[str]:
    """A sentence for users at the ITL limit, one for goodput; none without limits."""
    slo = records[0].slo
    out = []
    if "itl" in slo and not records[0].plan.by_rate:
        found = [users(_measured(record), slo["itl"]) for record in records]
        limit = f"users at ITL ≤ {slo['itl'] * 1e3:g} ms, all of them decoding"
        out.append(_ratio(limit, names(records), found))
    if slo:
        knees = [record.stats.knee for record in records]
        tops = [max((p.load for p in record.stats.points), default=None) for record in records]
        met = [None if knee is None else (knee, knee == top) for knee, top in zip(knees, tops)]
        share = (
            f"highest measured load with {goodput.ENOUGH:.0%} good requests ({formatting.slo(records[0])})"
        )
        out.append(_ratio(share, names(records), met))
    return out


def _measured(record: LoadRecord) -> list[tuple[float, float | None]]:
    return [(p.load, p.steady.itl_p50 if p.steady else None) for p in record.stats.points]


def _ratio(what: str, arms: Sequence[str], found: Sequence[tuple[float, bool] | None]) -> str:
    """``users at …: stock 37, balanced at least 128 (3.5×)``; of a bound the ratio is one, too."""
    parts, base = [], found[0]
    for arm, one in zip(arms, found):
        text = f"{arm} none" if one is None else f"{arm} {'at least ' if one[1] else ''}{one[0]:.3g}"
        if one is not None and base is not None and one is not base:
            ratio = f"{one[0] / base[0]:.2f}×"
            bound = {(True, False): "at least ", (False, True): "at most "}.get((one[1], base[1]), "")
            text += " (no ratio: both are bounds)" if one[1] and base[1] else f" ({bound}{ratio})"
        parts.append(text)
    return f"{what}: {', '.join(parts)}"
