"""What an arm's own ``/metrics`` say, and what happened between two readings of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from sglang_hisa.launch.live.record import Window

Buckets = dict[float, float]
"""Observations of a histogram at most as large as a bound (seconds), as Prometheus counts them."""

TTFT, ITL = "sglang:time_to_first_token_seconds", "sglang:inter_token_latency_seconds"
_COUNTS = {
    "requests": "sglang:num_requests_total",
    "aborted": "sglang:num_aborted_requests_total",
    "running": "sglang:num_running_reqs",
    "queued": "sglang:num_queue_reqs",
    "canary_checks": "sglang_hisa:canary_checks_total",
    "canary_violations": "sglang_hisa:canary_violations_total",
    "audit_recall": "sglang_hisa:audit_recall",
    "audit_worst_recall": "sglang_hisa:audit_worst_recall",
}
_OF_RANKS: dict[str, Callable[[Sequence[float]], float]] = {
    "sglang_hisa:audit_recall": fmean,
    "sglang_hisa:audit_worst_recall": min,
}
"""Gauges that do not add up over the ranks of a server."""
_BY_LABEL = {
    "sglang:realtime_tokens_total": "mode",
    "sglang_hisa:candidate_tokens_total": "phase",
    "sglang_hisa:context_tokens_total": "phase",
}


@dataclass(frozen=True)
class Reading:
    """One answer of ``/metrics``."""

    at: float
    """Seconds of a monotonic clock."""
    values: Mapping[tuple[str, str], float]
    """Metric and label (``""``: none is told apart) -> sum over the other labels."""
    histograms: Mapping[str, Buckets] = field(default_factory=dict)

    def value(self, name: str, label: str = "") -> float:
        """0 before the first event: a counter has no sample until then."""
        return self.values.get((name, label), 0.0)

    def has(self, name: str) -> bool:
        """Whether the server exports a metric."""
        return (name, "") in self.values


def parse(text: str, at: float) -> Reading:
    """The text of ``/metrics``, read ``at``.

    Raises:
        ValueError: it is not Prometheus' format, or has no metric of SGLang (no ``--enable-metrics``).
    """
    from prometheus_client.parser import text_string_to_metric_families

    wanted = set(_COUNTS.values())
    values: defaultdict[tuple[str, str], float] = defaultdict(float)
    histograms: dict[str, defaultdict[float, float]] = {name: defaultdict(float) for name in (TTFT, ITL)}
    gauges: defaultdict[str, list[float]] = defaultdict(list)
    seen = False
    for family in text_string_to_metric_families(text):
        seen = seen or family.name.startswith("sglang:")
        for sample in family.samples:
            labels = sample.labels
            if labels.get("priority"):  # 0.5.23 counts each priority beside all of them
                continue
            if sample.name in _OF_RANKS:
                gauges[sample.name].append(sample.value)
            elif sample.name in wanted:
                values[sample.name, ""] += sample.value
            elif sample.name in _BY_LABEL:
                values[sample.name, labels.get(_BY_LABEL[sample.name], "")] += sample.value
            # Only streamed answers say when their first token came.
            elif (
                family.name in histograms
                and sample.name.endswith("_bucket")
                and labels.get("is_streaming") != "false"
            ):
                histograms[family.name][float(labels["le"])] += sample.value
    if not seen:
        raise ValueError("no metric of SGLang")
    for name, of_ranks in gauges.items():  # NaN: that rank has audited no row yet
        told = [value for value in of_ranks if not math.isnan(value)]
        values[name, ""] = _OF_RANKS[name](told) if told else math.nan
    return Reading(at, dict(values), {name: dict(buckets) for name, buckets in histograms.items()})


def between(before: Buckets, after: Buckets) -> Buckets:
    """Observations after ``before``."""
    return {bound: count - before.get(bound, 0.0) for bound, count in after.items()}


def count(buckets: Buckets) -> int:
    """Number of observations."""
    return int(buckets.get(math.inf, 0))


def quantile(buckets: Buckets, q: float) -> float | None:
    """Seconds, linear within a bucket (Prometheus' ``histogram_quantile``); None without an observation.

    Above the last finite bound it is that bound.
    """
    rank, below, lower = q * count(buckets), 0.0, 0.0
    if rank <= 0:
        return None
    for bound, at_most in sorted(buckets.items()):
        if at_most >= rank:
            if math.isinf(bound):
                return lower
            return lower + (bound - lower) * (rank - below) / (at_most - below)
        below, lower = at_most, bound
    return lower


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def window(before: Reading, after: Reading) -> Window:
    """What an arm did between two readings."""

    def gained(name: str, label: str = "") -> float:
        return after.value(name, label) - before.value(name, label)

    def optional(key: str, change: bool) -> float | None:
        name = _COUNTS[key]
        found = gained(name) if change else after.value(name)
        # JSON has no NaN, which a gauge of the audit is before its first row.
        return found if after.has(name) and math.isfinite(found) else None

    seconds = after.at - before.at
    ttft = between(before.histograms.get(TTFT, {}), after.histograms.get(TTFT, {}))
    itl = between(before.histograms.get(ITL, {}), after.histograms.get(ITL, {}))
    tokens = "sglang:realtime_tokens_total"
    cached, computed = gained(tokens, "prefill_cache"), gained(tokens, "prefill_compute")
    candidates, context = "sglang_hisa:candidate_tokens_total", "sglang_hisa:context_tokens_total"
    return Window(
        seconds=round(seconds, 3),
        requests=int(gained(_COUNTS["requests"])),
        aborted=int(gained(_COUNTS["aborted"])),
        running=int(after.value(_COUNTS["running"])),
        queued=int(after.value(_COUNTS["queued"])),
        ttft_count=count(ttft),
        ttft_p50_s=quantile(ttft, 0.5),
        ttft_p95_s=quantile(ttft, 0.95),
        itl_count=count(itl),
        itl_p50_s=quantile(itl, 0.5),
        itl_p95_s=quantile(itl, 0.95),
        prefill_tok_s=_share(computed, seconds),
        decode_tok_s=_share(gained(tokens, "decode"), seconds),
        cache_hit=_share(cached, cached + computed),
        candidates_prefill=_share(gained(candidates, "prefill"), gained(context, "prefill")),
        candidates_decode=_share(gained(candidates, "decode"), gained(context, "decode")),
        canary_checks=optional("canary_checks", True),
        canary_violations=optional("canary_violations", True),
        audit_recall=optional("audit_recall", False),
        audit_worst_recall=optional("audit_worst_recall", False),
    )
