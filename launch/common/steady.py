"""Decode at steady state: only the time in which all of a load's requests are decoding at once.

A run's first tokens come while other prompts are still being prefilled, its last ones after the first answers
have ended: both decode fewer requests than the load names. Tokens are timed one by one; those that came in
one chunk of the stream are spread evenly over the time since the chunk before it (SGLang's benchmark does).
"""

from __future__ import annotations

import itertools
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

ENOUGH = 16
"""Tokens of each request, on average, that the window must hold."""


@dataclass(frozen=True)
class Timeline:
    """When one request got its tokens, in seconds since any common moment, ascending."""

    tokens: tuple[float, ...]

    @classmethod
    def of(cls, start: float, ttft: float, gaps: Sequence[float]) -> Timeline:
        """From the moment it was sent, the time to its first token, and the gaps after it."""
        return cls(tuple(itertools.accumulate(gaps, initial=start + ttft)))


@dataclass(frozen=True)
class Steady:
    """Decode while ``at_once`` requests were decoding; times in seconds.

    ``tokens`` arrived in the ``window_s``; ``itl_p50`` and ``itl_p99`` are of the gaps that lie in it whole;
    ``tpot`` is the mean time that a request took for a token, ``requests_s`` how many answers of the load's
    length such a rate ends a second; ``share`` is the window's part of the run's time.
    """

    at_once: int
    window_s: float
    tokens: int
    itl_p50: float
    itl_p99: float
    tpot: float
    output_tok_s: float
    requests_s: float
    share: float = 0.0

    @property
    def enough(self) -> bool:
        """Whether the window holds :data:`ENOUGH` tokens a request."""
        return self.tokens >= ENOUGH * self.at_once


def of_result(result: Mapping[str, Any], at_once: int, output_tokens: int) -> Steady | None:
    """:func:`measure` of a benchmark's result."""
    kept = zip(result["errors"], result["start_times"], result["ttfts"], result["itls"])
    times = [Timeline.of(sent, ttft, gaps) for error, sent, ttft, gaps in kept if not error and ttft > 0]
    found = measure(times, at_once, output_tokens)
    return found and replace(found, share=round(found.window_s / result["duration"], 4))


def windows(requests: Sequence[Timeline], at_once: int) -> list[tuple[float, float]]:
    """Every stretch of time in which at least ``at_once`` requests are between first and last token."""
    ends = [(r.tokens[0], 1) for r in requests if r.tokens] + [
        (r.tokens[-1], -1) for r in requests if r.tokens
    ]
    found, decoding, begin = [], 0, 0.0
    for moment, change in sorted(ends):  # at one moment an end comes before a beginning
        if decoding == at_once and change < 0 and moment > begin:
            found.append((begin, moment))
        decoding += change
        if decoding == at_once and change > 0:
            begin = moment
    return found


def measure(requests: Sequence[Timeline], at_once: int, output_tokens: int) -> Steady | None:
    """What decode took at steady state; None where the requests never all decoded at once.

    Args:
        requests: every request of the load, failed ones left out.
        at_once: how many decode at once at steady state.
        output_tokens: length of an answer.
    """
    spans = windows(requests, at_once)
    begins = [begin for begin, _ in spans]
    tokens, gaps = 0, []
    for request in requests:
        for before, moment in itertools.pairwise(request.tokens):
            place = bisect_right(begins, before) - 1
            if place >= 0 and moment <= spans[place][1]:
                gaps.append(moment - before)
            place = bisect_right(begins, moment) - 1
            tokens += place >= 0 and begins[place] < moment <= spans[place][1]
    if not gaps:
        return None
    seconds = sum(end - begin for begin, end in spans)
    rate = tokens / seconds
    gaps.sort()
    return Steady(
        at_once=at_once,
        window_s=round(seconds, 6),
        tokens=tokens,
        itl_p50=round(statistics.median(gaps), 6),
        itl_p99=round(gaps[-(-99 * len(gaps) // 100) - 1], 6),
        tpot=round(at_once / rate, 6),
        output_tok_s=round(rate, 3),
        requests_s=round(rate / output_tokens, 5),
    )
