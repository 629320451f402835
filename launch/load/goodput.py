"""Latency quantiles, goodput and the knee of a load test; times in seconds.

Goodput counts requests that meet every latency limit (SLO). A failed request, and one whose first token the
generator did not see, meets none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_hisa.launch.common import typed
from sglang_hisa.launch.common.steady import Steady
from sglang_hisa.launch.load.points import Kept, Request

ENOUGH = 0.9
"""Share of good requests from which a load counts as served."""


@dataclass(frozen=True)
class Quantiles:
    """Of one time of all requests that have it; None where none has."""

    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True)
class Point:
    """Figures of one load; the last three are None without limits."""

    load: float
    steady: Steady | None
    """Decode while all requests decode; None where too little was seen."""
    arrived: float | None
    """Requests a second that came, where a rate was asked."""
    sent: int
    failed: int
    unseen: int
    """Answered, but no first token was seen."""
    ttft: Quantiles
    itl: Quantiles
    tpot: Quantiles
    e2e: Quantiles
    output_tok_s: float
    requests_s: float
    """Answered."""
    goodput_share: float | None
    """Good ones of all requests."""
    goodput_s: float | None
    """Good requests a second."""
    met: dict[str, float] | None
    """Share of requests that meet each limit alone."""

    @property
    def good(self) -> bool:
        return self.goodput_share is not None and self.goodput_share >= ENOUGH


@dataclass(frozen=True)
class Stats:
    """Of all loads; ``knee`` is the highest one that is good, None where none is."""

    enough: float
    points: tuple[Point, ...]
    knee: float | None


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` of ``values`` do not exceed; None of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def requests(result: Mapping[str, Any]) -> tuple[Request, ...]:
    """Each request of a benchmark's result."""
    cached = result.get("cached_tokens") or [None] * len(result["errors"])
    out = []
    for i, error in enumerate(result["errors"]):
        ttft, gaps, count = result["ttfts"][i], result["itls"][i], result["output_lens"][i]
        seen = not error and ttft > 0
        spent = sum(gaps)
        out.append(
            Request(
                ttft=round(ttft, 6) if seen else None,
                itl=round(quantile(gaps, 0.99) or 0.0, 6) if seen else None,
                tpot=round(spent / (count - 1), 6) if seen and count > 1 else 0.0 if seen else None,
                e2e=round(ttft + spent, 6) if seen else None,
                input=result["input_lens"][i],
                output=count,
                cached=cached[i],
                error=error or None,
            )
        )
    return tuple(out)


def arrived(moments: Sequence[float]) -> float | None:
    """Requests (conversations) a second from the first of ``moments`` to the last; None of fewer than two."""
    if len(moments) < 2 or moments[-1] <= moments[0]:
        return None
    return (len(moments) - 1) / (moments[-1] - moments[0])


def point(kept: Kept, slo: Mapping[str, float]) -> Point:
    """Figures of one load of the record."""
    every, seconds = kept.requests, kept.duration_s
    answered = kept.answered
    good = sum(request.meets(slo) for request in every)
    known = bool(slo and every)

    def quantiles(name: str) -> Quantiles:
        times = [time for request in answered if (time := request.time(name)) is not None]
        return Quantiles(*(quantile(times, share) for share in (0.5, 0.9, 0.99)))

    return Point(
        load=kept.load,
        steady=kept.steady if kept.steady and kept.steady.enough else None,
        arrived=kept.arrived,
        sent=len(every),
        failed=len(every) - len(answered),
        unseen=sum(request.ttft is None for request in answered),
        ttft=quantiles("ttft"),
        itl=quantiles("itl"),
        tpot=quantiles("tpot"),
        e2e=quantiles("e2e"),
        output_tok_s=sum(request.output for request in answered) / seconds,
        requests_s=len(answered) / seconds,
        goodput_share=good / len(every) if known else None,
        goodput_s=good / seconds if known else None,
        met={n: sum(r.meets({n: x}) for r in every) / len(every) for n, x in slo.items()} if known else None,
    )


def compute(points: Sequence[Kept], slo: Mapping[str, float]) -> Stats:
    """The ``stats`` of a record."""
    found = tuple(point(kept, slo) for kept in points)
    return Stats(ENOUGH, found, max((one.load for one in found if one.good), default=None))


def flat(points: Sequence[Point]) -> list[dict[str, object]]:
    """A flat row for each point, for a CSV file."""
    rows = []
    for one in map(typed.as_json, points):
        row: dict[str, object] = {}
        for key, value in one.items():
            nested = {f"{key}_{name}": x for name, x in value.items()} if isinstance(value, dict) else None
            row |= {key: value} if nested is None else nested
        rows.append(row)
    return rows
