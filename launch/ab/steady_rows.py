"""Decode at steady state, for every form of an A/B report."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median as middle

from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.ab.record import AbRecord, Window
from sglang_hisa.launch.common import steady

LATE = 0.05
"""Share by which tokens may arrive more slowly than the server decodes them before a note says so."""
TITLE = "decode while all requests of a cell decode"
ABOUT = (
    "Steady state: from the moment the last request of a cell got its first token to the moment the first "
    "one ended. The window is its length and its share of the run, medians over the rounds."
)
HEAD = ("prompt × at once", "arm", "ITL", "speed-up", "tok/s", "speed-up", "TPOT", "req/s", "window")
NARROW_HEAD = ("prompt × at once", "ITL", "output tok/s", "window")


def timed(record: AbRecord) -> list[int]:
    """Cells that have a steady state to compare."""
    return [i for i, _ in enumerate(record.plan.cells) if stats.STEADY[0] in stats.metrics_of(record, i)]


def windows(record: AbRecord, arm: str, cell: int) -> list[Window]:
    """Steady states of a cell's measurements, of those that hold enough tokens."""
    return [found for m in record.of(arm, cell) if (found := m.window) is not None]


def table(record: AbRecord, effects: Mapping[tuple[str, int, str], str]) -> list[tuple[str, ...]]:
    """A row for each cell and arm under ``HEAD``; cells without a valid window are left out.

    ``effects``: by arm, cell and metric the speed-up in words; the baseline has none.
    """
    out: list[tuple[str, ...]] = []
    for cell in timed(record):
        for arm in record.plan.arms:
            if not (found := windows(record, arm, cell)):
                continue
            itl, rate = (effects.get((arm, cell, metric), "–") for metric in stats.STEADY)
            out.append(
                (
                    record.plan.cells[cell].load,
                    arm,
                    f"{middle(w.itl_p50 for w in found) * 1e3:.2f} ms",
                    itl,
                    f"{middle(w.output_tok_s for w in found):,.0f}",
                    rate,
                    f"{middle(w.tpot for w in found) * 1e3:.2f} ms",
                    f"{middle(w.requests_s for w in found):.2f}",
                    f"{middle(w.window_s for w in found):.1f} s, {middle(w.share for w in found):.0%}",
                )
            )
    return out


def narrow(record: AbRecord, arm: str, effects: Mapping[tuple[str, int, str], str]) -> list[tuple[str, ...]]:
    """The same for one arm beside the baseline under ``NARROW_HEAD``, a cell's parts below each other."""
    rows = table(record, effects)
    base = {row[0]: row for row in rows if row[1] == record.plan.baseline}
    out: list[tuple[str, ...]] = []
    for name, _, itl, itl_effect, rate, rate_effect, _, _, window in (row for row in rows if row[1] == arm):
        if name in base:
            was_itl, was_rate = base[name][2], base[name][4]
            itl = f"{was_itl.removesuffix(' ms')} → {itl}\n{itl_effect}"
            window = window.replace(", ", "\n")
            out.append((name.replace(" + ", "\n+ "), itl, f"{was_rate} → {rate}\n{rate_effect}", window))
    return out


def notes(record: AbRecord) -> list[str]:
    """Cells and arms whose window held too few tokens: how many measurements, and the way out."""
    out = []
    for cell in timed(record):
        for arm in record.plan.arms:
            mine = [m for m in record.of(arm, cell) if not m.failed]
            bad = len(mine) - len(windows(record, arm, cell))
            if bad:
                where = f"arm {arm}, {record.plan.cells[cell].load}, {bad} of {len(mine)} measurements"
                out.append(
                    f"INVALID at steady state, left out: {where} held fewer than {steady.ENOUGH} tokens a "
                    "request while all requests decoded; take more --output-tokens"
                )
    return out + _late(record)


def _late(record: AbRecord) -> list[str]:
    """Cells whose tokens came more slowly than the server decoded them: its HTTP side was measured there."""
    out = []
    for cell in timed(record):
        for arm in record.plan.arms:
            found = windows(record, arm, cell)
            known = [one.output_tok_s / one.server_tok_s for one in found if one.server_tok_s]
            if known and (share := middle(known)) < 1 - LATE:
                where = f"arm {arm}, {record.plan.cells[cell].load}"
                out.append(
                    f"{where}: tokens arrived at {share:.0%} of the rate at which the server decoded them "
                    "(its log): try --stream-interval 8 among SGLang's flags"
                )
    return out
