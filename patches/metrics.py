"""Prometheus metrics of a patched scheduler, beside SGLang's own ``sglang:*``."""

from __future__ import annotations

from typing import Any

from sglang_hisa.patches.runtime import Runtime


def export(state: Runtime) -> list[Any]:
    """Register the metrics; call only once SGLang has set up prometheus' multiprocess directory."""
    from prometheus_client import Counter, Gauge

    active = Gauge(
        "sglang_hisa:active",
        "1 when this scheduler serves HISA",
        ["version", "preset", "sglang"],
        multiprocess_mode="mostrecent",
    )
    receipt = state.receipt()
    active.labels(receipt["version"], receipt["preset"], receipt["sglang"]).set(int(receipt["active"]))
    rows = {
        "layers": receipt["layers"],
        "graphs_with_hisa": receipt["graphs_with_hisa"],
        "summary_bytes": receipt["summary_bytes"],
    }
    gauges = []
    for name, value in rows.items():
        gauge = Gauge(f"sglang_hisa:{name}", f"receipt: {name}", multiprocess_mode="mostrecent")
        gauge.set(value)
        gauges.append(gauge)
    # Python runs in eager steps and captures only, so a replayed decode graph is in neither count.
    kinds = {
        "hisa": Counter("sglang_hisa:steps", "eager steps that ran HISA", ["phase"]),
        "stock": Counter("sglang_hisa:stock_steps", "eager steps left to the stock indexer", ["reason"]),
    }
    for kind, counts in (("hisa", state.steps), ("stock", state.stock)):
        for label, count in counts.items():
            kinds[kind].labels(label).inc(count)
    state.on_step = lambda kind, label: kinds[kind].labels(label).inc()
    checks = Counter("sglang_hisa:canary_checks", "page summaries compared with their rebuild")
    violations = Counter("sglang_hisa:canary_violations", "page summaries that differed from their rebuild")

    def tell(new_checks: int, new_violations: int) -> None:
        checks.inc(new_checks)
        violations.inc(new_violations)

    tell(receipt["canary"]["checks"], receipt["canary"]["violations"])
    state.canary.on_counted = tell
    return [active, *gauges, *kinds.values(), checks, violations]
