"""Latency quantiles, goodput and the knee of a load test.

Goodput counts requests that meet every latency limit (SLO). A failed request, and one whose first token the
generator did not see, meets none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_hisa.launch.common import steady

ENOUGH = 0.9
"""Share of good requests from which a load counts as served."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
TIMES = ("ttft", "itl", "tpot", "e2e")


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` of ``values`` do not exceed; None of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def requests(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each request of a benchmark result: times in seconds (None where there is none), tokens, error.

    ``itl`` is the 99th percentile of the request's own gaps between tokens, ``tpot`` their mean. The answer
    ends with its last token.
    """
    out = []
    for i, error in enumerate(result["errors"]):
        ttft, gaps, count = result["ttfts"][i], result["itls"][i], result["output_lens"][i]
        seen = not error and ttft > 0
        spent = sum(gaps)
        out.append(
            {
                "ttft": round(ttft, 6) if seen else None,
                "itl": round(quantile(gaps, 0.99) or 0.0, 6) if seen else None,
                "tpot": round(spent / (count - 1), 6) if seen and count > 1 else 0.0 if seen else None,
                "e2e": round(ttft + spent, 6) if seen else None,
                "input": result["input_lens"][i],
                "output": count,
                "cached": result["cached_tokens"][i] if result.get("cached_tokens") else None,
                "error": error or None,
            }
        )
    return out


def arrived(moments: Sequence[float]) -> float | None:
    """Requests (conversations) a second from the first of ``moments`` to the last; None of fewer than two."""
    if len(moments) < 2 or moments[-1] <= moments[0]:
        return None
    return (len(moments) - 1) / (moments[-1] - moments[0])


def meets(request: Mapping[str, Any], slo: Mapping[str, float]) -> bool:
    """Whether a request meets every limit."""
    return request["ttft"] is not None and all(request[name] <= limit for name, limit in slo.items())


def point(kept: Mapping[str, Any], slo: Mapping[str, float]) -> dict[str, Any]:
    """Figures of one point of the record.

    Returns:
        ``arrived`` (requests a second that came, where a rate was asked); ``steady``: decode while all
        requests decode (:mod:`..common.steady`), None where too little was seen; ``sent``, ``failed``,
        ``unseen`` (answered, but no first token seen); p50, p90 and p99 of each time in s; ``output_tok_s``,
        ``requests_s`` (answered); ``goodput_share`` of all requests and ``goodput_s`` good requests a second;
        ``met``: share of requests that meet each limit alone. The last three are None without limits.
    """
    every, seconds = kept["requests"], kept["duration_s"]
    answered = [r for r in every if r["error"] is None]
    seen = [r for r in answered if r["ttft"] is not None]
    good = sum(meets(r, slo) for r in every)
    known = bool(slo and every)
    return {
        "load": kept["load"],
        "steady": found if steady.enough(found := kept.get("steady")) else None,
        "arrived": kept.get("arrived"),
        "sent": len(every),
        "failed": len(every) - len(answered),
        "unseen": len(answered) - len(seen),
        **{t: {q: quantile([r[t] for r in seen], s) for q, s in QUANTILES.items()} for t in TIMES},
        "output_tok_s": sum(r["output"] for r in answered) / seconds,
        "requests_s": len(answered) / seconds,
        "goodput_share": good / len(every) if known else None,
        "goodput_s": good / seconds if known else None,
        "met": {n: sum(meets(r, {n: x}) for r in every) / len(every) for n, x in slo.items()}
        if known
        else None,
    }


def knee(points: Sequence[Mapping[str, Any]]) -> float | None:
    """The highest load whose goodput share is at least ``ENOUGH``; None where no load has it."""
    found = [p["load"] for p in points if p["goodput_share"] is not None and p["goodput_share"] >= ENOUGH]
    return max(found, default=None)


def compute(record: Mapping[str, Any]) -> dict[str, Any]:
    """The ``stats`` of a record: ``points``, ``enough`` and ``knee``."""
    points = [point(kept, record["slo"]) for kept in record["points"]]
    return {"enough": ENOUGH, "points": points, "knee": knee(points)}


def flat(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A flat row for each point of a record that has ``stats``, for a CSV file; times in seconds."""
    rows = []
    for point_ in record["stats"]["points"]:
        row: dict[str, Any] = {}
        for key, value in point_.items():
            nested = value if isinstance(value, dict) else None
            row |= {key: value} if nested is None else {f"{key}_{name}": one for name, one in nested.items()}
        rows.append(row)
    return rows
