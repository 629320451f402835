"""Prometheus metrics of a patched scheduler, beside SGLang's own ``sglang:*``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang_hisa.config import Config, Phase
from sglang_hisa.gpu import Gpu
from sglang_hisa.patches.metric_labels import Labelled
from sglang_hisa.patches.runtime import Runtime


def _settings(config: Config) -> dict[str, str]:
    """Labels that tell servers with different settings apart; ``L`` is a row's own context."""

    def budget(phase: Phase) -> str:
        if not phase.active:
            return "stock DSA"
        return f"max({phase.tokens}, {phase.fraction:g} L)" if phase.fraction else str(phase.tokens)

    return {
        "preset": config.title,
        "block": str(config.block),
        "decode_budget": budget(config.decode),
        "prefill_budget": budget(config.prefill),
    }


def _gpu(gpu: Gpu | None) -> dict[str, str]:
    if gpu is None:
        return {"gpu": "none", "gpu_verified": ""}
    return {"gpu": f"{gpu.name} ({gpu.version})", "gpu_verified": "yes" if gpu.verified else "no"}


def export(state: Runtime, fixed: Mapping[str, str]) -> list[Any]:
    """Register the metrics, each with the labels ``fixed`` (:func:`metric_labels.of_scheduler`).

    Call only once SGLang has set up prometheus' multiprocess directory.
    """
    from prometheus_client import Counter, Gauge

    source = {"source_verified": "no" if state.unverified else "yes"}
    about = {**_settings(state.config), **_gpu(state.gpu), **source}
    names = ("version", "sglang", *about)
    active = Labelled(
        Gauge, "active", "1 when this scheduler serves HISA", fixed, names, multiprocess_mode="mostrecent"
    )
    receipt = state.receipt()
    labels = active.labels(receipt["version"], receipt["sglang"], *about.values())
    labels.set(int(receipt["active"]))
    rows = {
        "layers": receipt["layers"],
        "graphs_with_hisa": receipt["graphs_with_hisa"],
        "summary_bytes": receipt["summary_bytes"],
    }
    gauges = []
    for name, value in rows.items():
        gauge = Labelled(Gauge, name, f"receipt: {name}", fixed, multiprocess_mode="mostrecent")
        gauge.labels().set(value)
        gauges.append(gauge)
    # Python runs in eager steps and captures only, so a replayed decode graph is in neither count.
    kinds = {
        "hisa": Labelled(Counter, "steps", "eager steps that ran HISA", fixed, ("phase",)),
        "stock": Labelled(
            Counter, "stock_steps", "eager steps left to the stock indexer", fixed, ("reason",)
        ),
    }
    for kind, counts in (("hisa", state.steps), ("stock", state.stock)):
        for label, count in counts.items():
            kinds[kind].labels(label).inc(count)
    state.on_step = lambda kind, label: kinds[kind].labels(label).inc()
    checks = Labelled(Counter, "canary_checks", "page summaries compared with their rebuild", fixed)
    violations = Labelled(
        Counter, "canary_violations", "page summaries that differed from their rebuild", fixed
    )

    def tell(new_checks: int, new_violations: int) -> None:
        checks.labels().inc(new_checks)
        violations.labels().inc(new_violations)

    tell(receipt["canary"]["checks"], receipt["canary"]["violations"])
    state.canary.on_counted = tell
    return [active, *gauges, *kinds.values(), checks, violations]
