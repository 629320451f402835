"""Speed-ups of an A/B record, with intervals, a noise floor and a verdict for each.

Times and throughputs spread by ratios, so all is done on logarithms of paired ratios: an arm's measurement
against the baseline's of the same round and cell. A ratio above 1 is faster, for times and for throughput.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Iterable
from typing import Any

from sglang_hisa.config import ConfigError, parse
from sglang_hisa.launch.common import steady

METRICS = ("ttft", "tpot", "itl", "throughput")
STEADY = ("steady_itl", "steady_throughput")
"""Of decode alone, while all requests of a cell decode (:mod:`sglang_hisa.launch.common.steady`)."""
FASTER, SLOWER, SAME, TOO_FEW = "faster", "slower", "no difference seen", "too few pairs"
CONFIDENCE = 0.95
"""Of the intervals; verdicts go by the plan's ``alpha``."""
ALPHA = 0.05
"""Chance that an arm equal to the baseline gets a verdict in any cell or metric, unless the plan says."""
MIN_PAIRS = 3
START = 1.02
"""Ratio up to which two starts of one arm may differ for as long as they are up. Where each arm is started
once (``together``) that is in every round, and no pair cancels it: two servers that replayed the same graph
of stock DSA decoded 1.4 % apart (``launch/results/ab-watching``, 8K)."""
_SAMPLES = {"ttft": "ttft_s", "tpot": "tpot_s", "itl": "itl_s"}


def alpha_of(plan: dict[str, Any]) -> float:
    """A recorded plan's ``alpha``; records from before it had one went by ``ALPHA``."""
    alpha: float = plan.get("alpha", ALPHA)
    return alpha


def failed(measurement: dict[str, Any]) -> bool:
    """Whether a request of it failed: what is left is a lighter load, not comparable."""
    return bool(measurement.get("errors")) or measurement["completed"] < measurement["requests"]


def metrics_of(record: dict[str, Any], cell: int) -> tuple[str, ...]:
    """What is compared in a cell: decode at steady state alone where the prompts share a prefix.

    Their first tokens wait for each other and for little else, and so would the throughput of the whole run.
    A single request decodes in the same steady state throughout.
    """
    spec = record["plan"]["cells"][cell]
    if spec.get("prefix_tokens"):
        return STEADY
    timed = spec["concurrency"] > 1 and any(
        m.get("steady") for m in record["measurements"] if m["cell"] == cell
    )
    return (*METRICS, *STEADY) if timed else METRICS


def window(measurement: dict[str, Any]) -> dict[str, Any] | None:
    """Decode at steady state of a measurement; None where too few tokens came while all requests decoded."""
    found: dict[str, Any] | None = measurement.get("steady")
    return None if failed(measurement) or not steady.enough(found) else found


def value(measurement: dict[str, Any], metric: str) -> float | None:
    """Median seconds (``ttft``, ``tpot``, ``itl``) or tokens/s (``throughput``); None where there is none."""
    if failed(measurement):
        return None
    if metric in STEADY:
        key = {"steady_itl": "itl_p50", "steady_throughput": "output_tok_s"}[metric]
        return None if (found := window(measurement)) is None else found[key]
    if metric == "throughput":
        found = measurement.get("total_tok_s")
    else:
        samples = measurement.get(_SAMPLES[metric])
        found = statistics.median(samples) if samples else None
    return found if found is not None and math.isfinite(found) and found > 0 else None


def by_round(record: dict[str, Any], arm: str, cell: int, metric: str) -> dict[int, float]:
    """Values of the rounds that have one."""
    found = {
        m["round"]: value(m, metric) for m in record["measurements"] if (m["arm"], m["cell"]) == (arm, cell)
    }
    return {r: v for r, v in sorted(found.items()) if v is not None}


def half_width(spread: float, count: int, freedom: int) -> float:
    """Half of Student's interval of a mean of ``count`` values."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * spread / math.sqrt(count)


def _p_value(logs: list[float]) -> float:
    """Two-sided p of "the mean is 0"."""
    from scipy.special import stdtr

    mean, spread = statistics.fmean(logs), statistics.stdev(logs)
    if spread == 0:
        return float(mean == 0)
    return 2 * float(stdtr(len(logs) - 1, -abs(mean) / (spread / math.sqrt(len(logs)))))


def _noise(values: dict[int, float]) -> tuple[int, float | None]:
    """Pairs of consecutive rounds (0 with 1, 2 with 3…) of one arm, and the half-width of their log-ratio.

    The mean is known to be 0, since both sides are the same arm: drift from round to round counts as noise.
    """
    logs = [math.log(values[r + 1] / values[r]) for r in values if r % 2 == 0 and r + 1 in values]
    if not logs:
        return 0, None
    rms = math.sqrt(statistics.fmean(x * x for x in logs))
    return len(logs), half_width(rms, len(logs), len(logs))


def _floor(noise: dict[str, Any], together: bool) -> float | None:
    """Log-ratio that an effect must exceed; None where the baseline's own noise is not known."""
    known: float | None = noise["half_width"]
    return max(known, math.log(START)) if together and known is not None else known


def _compare(
    base: dict[int, float], arm: dict[int, float], metric: str, floor: float | None
) -> dict[str, Any]:
    sign = 1 if metric.endswith("throughput") else -1
    logs = [sign * math.log(arm[r] / base[r]) for r in base if r in arm]
    found: dict[str, Any] = {
        "baseline_median": statistics.median(base.values()) if base else None,
        "arm_median": statistics.median(arm.values()) if arm else None,
        "pairs": len(logs),
        "ratios": [math.exp(x) for x in logs],
        "noise_floor": None if floor is None else math.exp(floor),
        **dict.fromkeys(("speedup", "low", "high", "p", "p_holm")),
    }
    if logs:
        found["speedup"] = math.exp(mean := statistics.fmean(logs))
    if len(logs) > 1:
        half = half_width(statistics.stdev(logs), len(logs), len(logs) - 1)
        found |= {"low": math.exp(mean - half), "high": math.exp(mean + half), "p": _p_value(logs)}
    return found


def _holm(comparisons: Iterable[dict[str, Any]]) -> None:
    """Fill ``p_holm``: Holm's step-down over what has enough pairs (Holm 1979)."""
    tested = sorted((c for c in comparisons if c["pairs"] >= MIN_PAIRS), key=lambda c: c["p"])
    steps = (min(1.0, (len(tested) - i) * c["p"]) for i, c in enumerate(tested))
    for comparison, p in zip(tested, itertools.accumulate(steps, max)):
        comparison["p_holm"] = p


def _verdict(found: dict[str, Any], alpha: float) -> str:
    if found["pairs"] < MIN_PAIRS or found["noise_floor"] is None:
        return TOO_FEW
    effect = math.log(found["speedup"])
    if found["p_holm"] >= alpha or abs(effect) <= math.log(found["noise_floor"]):
        return SAME
    return FASTER if effect > 0 else SLOWER


def compute(record: dict[str, Any]) -> dict[str, Any]:
    """The ``stats`` of a raw record.

    Returns:
        ``confidence``; ``noise``: for each cell and metric the baseline against itself (``pairs``,
        ``half_width`` of the log-ratio); ``comparisons``: for each arm, cell and metric the medians over
        rounds (s, tokens/s), ``pairs``, their ``ratios``, ``speedup`` (geometric mean), its interval
        ``low`` to ``high``, ``p`` and ``p_holm`` (corrected over the arm), ``noise_floor``
        (a factor, at least :data:`START` where each arm was started once) and ``verdict``;
        ``verdicts``: how often each arm got which. With refusals every verdict is None.

    Raises:
        ImportError: scipy is missing; SGLang depends on it.
    """
    plan, base = record["plan"], record["plan"]["baseline"]
    alpha = alpha_of(plan)
    places = [(cell, metric) for cell in range(len(plan["cells"])) for metric in metrics_of(record, cell)]
    noise = [dict(zip(("pairs", "half_width"), _noise(by_round(record, base, *p)))) for p in places]
    comparisons, verdicts = [], {}
    for arm in (name for name in plan["arms"] if name != base):
        ours = []
        for (cell, metric), floor in zip(places, noise):
            stock, own = by_round(record, base, cell, metric), by_round(record, arm, cell, metric)
            found = _compare(stock, own, metric, _floor(floor, plan["together"]))
            ours.append({"arm": arm, "cell": cell, "metric": metric, **found})
        _holm(ours)
        for found in ours:
            found["verdict"] = None if record["refusals"] else _verdict(found, alpha)
        names = [found["verdict"] for found in ours]
        verdicts[arm] = None if record["refusals"] else {v: names.count(v) for v in dict.fromkeys(names)}
        comparisons += ours
    return {
        "confidence": CONFIDENCE,
        "noise": [{"cell": c, "metric": m, **found} for (c, m), found in zip(places, noise)],
        "comparisons": comparisons,
        "verdicts": verdicts,
    }


def _preset(arm: dict[str, Any] | None) -> str | None:
    """As the setting says it, with what it changes; None of an arm that was not started."""
    if not arm:
        return None
    if (setting := arm["setting"]) is None:
        return "stock"
    try:
        return parse(setting).title
    except ConfigError:  # of an older version, or refused: as it says itself
        return str(json.loads(setting).get("preset", "balanced")) if setting.startswith("{") else setting


_NAMES = {"throughput": "output_throughput", "steady_throughput": "steady_output_throughput"}


def rows(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparisons of a record that has ``stats``, flat, under the names that all records share
    (docs/design.md, records).

    ``preset`` names what the arm's setting changes of it. All prompts and answers of a cell are equally
    long, so the speed-up of all tokens a second (``throughput``) is that of the answers'
    (``output_throughput``).
    """
    found = []
    for one in record["stats"]["comparisons"]:
        cell = record["plan"]["cells"][one["cell"]]
        found.append(
            {
                "arm": one["arm"],
                "preset": _preset(record["arms"].get(one["arm"])),
                "baseline": record["plan"]["baseline"],
                "context": cell["input_tokens"],
                "concurrency": cell["concurrency"],
                **({"shared_prefix": cell["prefix_tokens"]} if cell.get("prefix_tokens") else {}),
                "metric": _NAMES.get(one["metric"], one["metric"]),
                "speedup": one["speedup"],
                "ci_low": one["low"],
                "ci_high": one["high"],
                "pairs": one["pairs"],
                "verdict": one["verdict"],
            }
        )
    return found
