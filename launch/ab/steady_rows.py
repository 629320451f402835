"""Decode at steady state, for every form of an A/B report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.common import steady, text

LATE = 0.05
"""Share by which tokens may arrive more slowly than the server decodes them before a note says so."""
TITLE = "decode while all requests of a cell decode"
ABOUT = (
    "Steady state: from the moment the last request of a cell got its first token to the moment the first "
    "one ended. The window is its length and its share of the run, medians over the rounds."
)
HEAD = ("prompt × at once", "arm", "ITL", "speed-up", "tok/s", "speed-up", "TPOT", "req/s", "window")
NARROW_HEAD = ("prompt × at once", "ITL", "output tok/s", "window")


def timed(record: Mapping[str, Any]) -> list[int]:
    """Cells that have a steady state to compare."""
    cells = range(len(record["plan"]["cells"]))
    return [i for i in cells if stats.STEADY[0] in stats.metrics_of(dict(record), i)]


def windows(record: Mapping[str, Any], arm: str, cell: int) -> list[dict[str, Any]]:
    """Steady states of a cell's measurements, of those that hold enough tokens."""
    mine = [m for m in record["measurements"] if (m["arm"], m["cell"]) == (arm, cell)]
    return [found for m in mine if (found := stats.window(m)) is not None]


def table(record: Mapping[str, Any], effects: Mapping[tuple[str, int, str], str]) -> list[tuple[str, ...]]:
    """A row for each cell and arm under ``HEAD``; cells without a valid window are left out.

    ``effects``: by arm, cell and metric the speed-up in words; the baseline has none.
    """
    out: list[tuple[str, ...]] = []
    for cell in timed(record):
        spec = record["plan"]["cells"][cell]
        for arm in record["plan"]["arms"]:
            if not (found := windows(record, arm, cell)):
                continue

            def middle(key: str, found: Sequence[Mapping[str, Any]] = found) -> float:
                return float(statistics.median(one[key] for one in found))

            itl, rate = (effects.get((arm, cell, metric), "–") for metric in stats.STEADY)
            out.append(
                (
                    f"{prompt(spec)} × {spec['concurrency']}",
                    arm,
                    f"{middle('itl_p50') * 1e3:.2f} ms",
                    itl,
                    f"{middle('output_tok_s'):,.0f}",
                    rate,
                    f"{middle('tpot') * 1e3:.2f} ms",
                    f"{middle('requests_s'):.2f}",
                    f"{middle('window_s'):.1f} s, {middle('share'):.0%}",
                )
            )
    return out


def narrow(
    record: Mapping[str, Any], arm: str, effects: Mapping[tuple[str, int, str], str]
) -> list[tuple[str, ...]]:
    """The same for one arm beside the baseline under ``NARROW_HEAD``, a cell's parts below each other."""
    rows = table(record, effects)
    base = {row[0]: row for row in rows if row[1] == record["plan"]["baseline"]}
    out: list[tuple[str, ...]] = []
    for name, _, itl, itl_effect, rate, rate_effect, _, _, window in (row for row in rows if row[1] == arm):
        if name in base:
            was_itl, was_rate = base[name][2], base[name][4]
            itl = f"{was_itl.removesuffix(' ms')} → {itl}\n{itl_effect}"
            window = window.replace(", ", "\n")
            out.append((name.replace(" + ", "\n+ "), itl, f"{was_rate} → {rate}\n{rate_effect}", window))
    return out


def prompt(spec: Mapping[str, Any]) -> str:
    """``8K``; with a shared prefix ``128K shared + 64``."""
    shared = spec.get("prefix_tokens", 0)
    own = text.tokens(spec["input_tokens"] - shared)
    return f"{text.tokens(shared)} shared + {own}" if shared else own


def notes(record: Mapping[str, Any]) -> list[str]:
    """Cells and arms whose window held too few tokens: how many measurements, and the way out."""
    out = []
    for cell in timed(record):
        spec = record["plan"]["cells"][cell]
        for arm in record["plan"]["arms"]:
            mine = [m for m in record["measurements"] if (m["arm"], m["cell"]) == (arm, cell)]
            mine = [m for m in mine if not stats.failed(m)]
            bad = len(mine) - len(windows(record, arm, cell))
            if bad:
                where = (
                    f"arm {arm}, {prompt(spec)} × {spec['concurrency']}, {bad} of {len(mine)} measurements"
                )
                out.append(
                    f"INVALID at steady state, left out: {where} held fewer than {steady.ENOUGH} tokens a "
                    "request while all requests decoded; take more --output-tokens"
                )
    return out + _late(record)


def _late(record: Mapping[str, Any]) -> list[str]:
    """Cells whose tokens came more slowly than the server decoded them: its HTTP side was measured there."""
    out = []
    for cell in timed(record):
        spec = record["plan"]["cells"][cell]
        for arm in record["plan"]["arms"]:
            known = [one for one in windows(record, arm, cell) if one.get("server_tok_s")]
            if not known:
                continue
            share = statistics.median(one["output_tok_s"] / one["server_tok_s"] for one in known)
            if share < 1 - LATE:
                where = f"arm {arm}, {prompt(spec)} × {spec['concurrency']}"
                out.append(
                    f"{where}: tokens arrived at {share:.0%} of the rate at which the server decoded them "
                    "(its log): try --stream-interval 8 among SGLang's flags"
                )
    return out
