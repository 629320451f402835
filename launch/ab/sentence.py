"""An A/B in one sentence an arm: where it is faster or slower, where not, and whether answers changed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.ab.plan import Cell
from sglang_hisa.launch.ab.record import AbRecord, Comparison

Found = Mapping[tuple[str, int, str], Comparison]
"""Comparisons by arm, cell and metric."""
PARTS = (
    (("ttft",), "to the first token"),
    (("itl", "steady_itl"), "per token"),
)
"""Metrics, and what they are the time to."""


def sentences(record: AbRecord, found: Found) -> list[str]:
    """``balanced: 1.51× faster to the first token at 128K, no difference below; answers unchanged``.

    Empty where a record gives no verdict.
    """
    if record.refusals:
        return []
    return [f"{arm}: {_speed(record, found, arm)}; {answers(record, arm)}" for arm in record.plan.others]


def _speed(record: AbRecord, found: Found, arm: str) -> str:
    parts, unclear = [], True
    for metrics, what in PARTS:
        mine = []
        for cell, spec in enumerate(record.plan.cells):
            # At steady state where there is one: a whole run's ITL has the prefill of others in it.
            known = [found[arm, cell, metric] for metric in metrics if (arm, cell, metric) in found]
            if known:
                mine.append((spec, known[-1]))
        unclear = unclear and all(one.verdict == stats.TOO_FEW for _, one in mine)
        parts += [_part(mine, what)] if mine else []
    return "too few pairs for a verdict" if unclear else ", ".join(parts)


def _part(cells: Sequence[tuple[Cell, Comparison]], what: str) -> str:
    """One metric over all cells."""
    by = {
        verdict: [(spec, one) for spec, one in cells if one.verdict == verdict]
        for verdict in (stats.FASTER, stats.SLOWER, stats.SAME, stats.TOO_FEW)
    }
    parts = []
    for verdict, word in ((stats.FASTER, "faster"), (stats.SLOWER, "as fast")):
        if hit := by[verdict]:
            factors = sorted(one.speedup for _, one in hit if one.speedup)
            both = f"{factors[0]:.2f}× to {factors[-1]:.2f}×" if len(hit) > 1 else f"{factors[0]:.2f}×"
            parts.append(f"{both} {word} {what} at {_places(hit)}")
    if same := by[stats.SAME]:
        if parts:
            least = min(spec.input_tokens for spec, _ in by[stats.FASTER] + by[stats.SLOWER])
            below = all(spec.input_tokens < least for spec, _ in same)
            parts.append(f"no difference {'below' if below else f'at {_places(same)}'}")
        else:
            parts.append(f"no difference {what}" + (f" at {_places(same)}" if by[stats.TOO_FEW] else ""))
    if few := by[stats.TOO_FEW]:
        parts.append(f"too few pairs {what}" + (f" at {_places(few)}" if parts else ""))
    return ", ".join(parts)


def _places(cells: Sequence[tuple[Cell, Comparison]]) -> str:
    *most, last = [spec.load for spec, _ in cells]
    return f"{', '.join(most)} and {last}" if most else last


def answers(record: AbRecord, arm: str) -> str:
    """Whether an arm's answers differ from the baseline's by more than the baseline's own from run to run."""
    base, mine = ([one for one in record.quality if one.arm == name] for name in (record.plan.baseline, arm))
    if not base or not mine:
        return "answers not compared"
    noise = max(one.kl_max for one in base)
    same = statistics.fmean(one.same_first for one in mine)
    if max(one.kl_max for one in mine) <= 2 * noise + 1e-6 and same == 1:
        return "answers unchanged"
    kl = statistics.fmean(one.kl_mean for one in mine)
    return f"answers: {same:.0%} of the likeliest tokens are the same, KL {kl:.1e}"
