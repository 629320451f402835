"""Speed-ups of an A/B record, with intervals, a noise floor and a verdict for each.

Times and throughputs spread by ratios, so all is done on logarithms of paired ratios: an arm's measurement
against the baseline's of the same round and cell. A ratio above 1 is faster, for times and for throughput.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from sglang_hisa.config import ConfigError, parse
from sglang_hisa.launch.ab.plan import MIN_PAIRS
from sglang_hisa.launch.ab.record import AbRecord, AbRow, ArmFacts, Comparison, Measurement, Noise, Stats

METRICS = ("ttft", "tpot", "itl", "throughput")
STEADY = ("steady_itl", "steady_throughput")
"""Of decode alone, while all requests of a cell decode (:mod:`sglang_hisa.launch.common.steady`)."""
FASTER, SLOWER, SAME, TOO_FEW = "faster", "slower", "no difference seen", "too few pairs"
CONFIDENCE = 0.95
"""Of the intervals; verdicts go by the plan's ``alpha``."""
START = 1.02
"""Ratio up to which two starts of one arm may differ for as long as they are up. Where each arm is started
once (``together``) that is in every round, and no pair cancels it: two servers that replayed the same graph
of stock DSA decoded 1.4 % apart (``launch/results/ab-watching``, 8K)."""


def metrics_of(record: AbRecord, cell: int) -> tuple[str, ...]:
    """What is compared in a cell: decode at steady state alone where the prompts share a prefix.

    Their first tokens wait for each other and for little else, and so would the throughput of the whole run.
    A single request decodes in the same steady state throughout.
    """
    spec = record.plan.cells[cell]
    if spec.prefix_tokens:
        return STEADY
    timed = spec.concurrency > 1 and any(m.steady for m in record.measurements if m.cell == cell)
    return (*METRICS, *STEADY) if timed else METRICS


def value(measurement: Measurement, metric: str) -> float | None:
    """Median seconds (``ttft``, ``tpot``, ``itl``) or tokens/s (``throughput``); None where there is none."""
    if measurement.failed:
        return None
    if metric in STEADY:
        if (window := measurement.window) is None:
            return None
        return window.itl_p50 if metric == "steady_itl" else window.output_tok_s
    if metric == "throughput":
        found = measurement.total_tok_s
    else:
        samples = {"ttft": measurement.ttft_s, "tpot": measurement.tpot_s, "itl": measurement.itl_s}[metric]
        found = statistics.median(samples) if samples else 0.0
    return found if math.isfinite(found) and found > 0 else None


def by_round(record: AbRecord, arm: str, cell: int, metric: str) -> dict[int, float]:
    """Values of the rounds that have one."""
    found = {m.round: value(m, metric) for m in record.of(arm, cell)}
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


def _noise(record: AbRecord, cell: int, metric: str) -> Noise:
    """Pairs of consecutive rounds (0 with 1, 2 with 3…) of the baseline.

    The mean is known to be 0, since both sides are the same arm: drift from round to round counts as noise.
    """
    values = by_round(record, record.plan.baseline, cell, metric)
    logs = [math.log(values[r + 1] / values[r]) for r in values if r % 2 == 0 and r + 1 in values]
    rms = math.sqrt(statistics.fmean(x * x for x in logs)) if logs else 0.0
    half = half_width(rms, len(logs), len(logs)) if logs else None
    return Noise(cell=cell, metric=metric, pairs=len(logs), half_width=half)


def _compare(record: AbRecord, arm: str, noise: Noise) -> Comparison:
    """An arm in the cell and metric of ``noise``, without what follows from the arm's other comparisons."""
    base, own = (by_round(record, name, noise.cell, noise.metric) for name in (record.plan.baseline, arm))
    sign = 1 if noise.metric.endswith("throughput") else -1
    logs = [sign * math.log(own[r] / base[r]) for r in base if r in own]
    floor = None if noise.half_width is None else math.exp(noise.half_width)
    found = Comparison(
        arm=arm,
        cell=noise.cell,
        metric=noise.metric,
        baseline_median=statistics.median(base.values()) if base else None,
        arm_median=statistics.median(own.values()) if own else None,
        pairs=len(logs),
        ratios=tuple(math.exp(x) for x in logs),
        noise_floor=max(floor, START) if floor and record.plan.together else floor,
        speedup=math.exp(statistics.fmean(logs)) if logs else None,
    )
    if len(logs) < 2:
        return found
    mean, half = statistics.fmean(logs), half_width(statistics.stdev(logs), len(logs), len(logs) - 1)
    return replace(found, low=math.exp(mean - half), high=math.exp(mean + half), p=_p_value(logs))


def _holm(comparisons: Sequence[Comparison]) -> dict[int, float]:
    """``p_holm`` by place: Holm's step-down over what has enough pairs (Holm 1979)."""
    known = [(c.p, i) for i, c in enumerate(comparisons) if c.p is not None]
    tested = sorted((p, i) for p, i in known if comparisons[i].pairs >= MIN_PAIRS)
    steps = (min(1.0, (len(tested) - n) * p) for n, (p, _) in enumerate(tested))
    return {i: p for (_, i), p in zip(tested, itertools.accumulate(steps, max))}


def _verdict(found: Comparison, alpha: float) -> str:
    if found.p_holm is None or found.noise_floor is None or found.speedup is None:
        return TOO_FEW
    effect = math.log(found.speedup)
    if found.p_holm >= alpha or abs(effect) <= math.log(found.noise_floor):
        return SAME
    return FASTER if effect > 0 else SLOWER


def compute(record: AbRecord) -> Stats:
    """The ``stats`` of a record, made of its plan and measurements.

    Raises:
        ImportError: scipy is missing; SGLang depends on it.
    """
    plan, cells = record.plan, range(len(record.plan.cells))
    noise = [_noise(record, cell, metric) for cell in cells for metric in metrics_of(record, cell)]
    comparisons: list[Comparison] = []
    verdicts: dict[str, dict[str, int] | None] = {}
    for arm in plan.others:
        ours = [_compare(record, arm, one) for one in noise]
        holm = _holm(ours)
        ours = [replace(one, p_holm=holm.get(i)) for i, one in enumerate(ours)]
        verdicts[arm] = None
        if not record.refusals:
            names = [_verdict(one, plan.alpha) for one in ours]
            ours = [replace(one, verdict=name) for one, name in zip(ours, names)]
            verdicts[arm] = {name: names.count(name) for name in dict.fromkeys(names)}
        comparisons += ours
    return Stats(confidence=CONFIDENCE, noise=tuple(noise), comparisons=tuple(comparisons), verdicts=verdicts)


def _preset(arm: ArmFacts | None) -> str | None:
    """As the setting says it, with what it changes; None of an arm that was not started."""
    if arm is None or (setting := arm.setting) is None:
        return "stock" if arm else None
    try:
        return parse(setting).title
    except ConfigError:  # of an older version, or refused: as it says itself
        return str(json.loads(setting).get("preset", "balanced")) if setting.startswith("{") else setting


_NAMES = {"throughput": "output_throughput", "steady_throughput": "steady_output_throughput"}


def rows(record: AbRecord, made: Stats) -> tuple[AbRow, ...]:
    """The comparisons of a record.

    All prompts and answers of a cell are equally long, so the speed-up of all tokens a second
    (``throughput``) is that of the answers' (``output_throughput``).
    """
    found = []
    for one in made.comparisons:
        cell = record.plan.cells[one.cell]
        found.append(
            AbRow(
                arm=one.arm,
                preset=_preset(record.arms.get(one.arm)),
                baseline=record.plan.baseline,
                context=cell.input_tokens,
                concurrency=cell.concurrency,
                shared_prefix=cell.prefix_tokens or None,
                metric=_NAMES.get(one.metric, one.metric),
                speedup=one.speedup,
                ci_low=one.low,
                ci_high=one.high,
                pairs=one.pairs,
                verdict=one.verdict,
            )
        )
    return tuple(found)
