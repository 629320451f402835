"""How long an A/B takes: before it starts by assumed rates, while it runs by what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sglang_hisa.launch.ab.plan import Cell, Plan, visits

START_S, PROMPT_TOK_S, TOKEN_S, SENT_S = 120.0, 7000.0, 0.02, 0.04
"""Assumed before anything is known: a server's start, prompt tokens read a second, time between two tokens,
and the time that a server takes to receive 128K token ids (a request more waits as long)."""


@dataclass(frozen=True)
class Work:
    """What a run has to do."""

    starts: int
    measurements: int
    prompt_tokens: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"about {words(self.seconds)}: {self.starts} server starts, {self.measurements} measurements, "
            f"{self.prompt_tokens:,} prompt tokens to read (assumed: {START_S:.0f} s a start, "
            f"{PROMPT_TOK_S:,.0f} prompt tokens a second, {TOKEN_S * 1e3:.0f} ms a token)"
        )


def words(seconds: float) -> str:
    """``1 h 5 min``, ``12 min`` or ``40 s``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _cell(cell: Cell) -> tuple[int, float]:
    """Prompt tokens that one measurement reads, and its seconds."""
    read = cell.requests * cell.own_tokens
    waves = -(-cell.requests // cell.concurrency)
    sent = cell.requests * cell.input_tokens / (128 * 1024) * SENT_S
    return read, read / PROMPT_TOK_S + sent + waves * cell.output_tokens * TOKEN_S


def work(plan: Plan, left: Sequence[tuple[int, int, str]], *, running: bool = False) -> Work:
    """Of the rounds, cells and arms that are ``left``; warm-ups (one for each start and cell) included.

    ``running``: the servers are up already.
    """
    rounds = {(index, arm) for index, _, arm in left}
    needed = sum(any((index, arm.name) in rounds for index in every) for arm, every in visits(plan))
    starts = (len(plan.arms) if left else 0) if plan.together else needed
    read, seconds = 0, 0.0
    for _, number, _ in left:
        tokens, took = _cell(plan.cells[number])
        read += tokens
        seconds += took
    longest = 0
    for number in {number for _, number, _ in left}:
        cell = plan.cells[number]
        warm = plan.warmup(cell)
        new = max(0, cell.prefix_tokens - longest) if cell.prefix_tokens else warm.input_tokens
        longest = max(longest, cell.prefix_tokens)
        read += new * starts
        seconds += starts * (new / PROMPT_TOK_S + warm.output_tokens * TOKEN_S)
    wait = START_S if plan.together and starts else starts * START_S  # together they start side by side
    if running:
        starts, wait = 0, 0.0
    return Work(starts, len(left), read, seconds + wait)


def remaining(
    took: Mapping[tuple[str, int], Sequence[float]], todo: Sequence[tuple[str, int]]
) -> float | None:
    """Seconds of the measurements (arm, cell) that are still to do; None while one of them is not known."""
    if any(place not in took for place in todo):
        return None
    return sum(statistics.median(took[place]) for place in todo)
