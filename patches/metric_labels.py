"""Metrics that carry the labels of SGLang's own, so that one dashboard tells models and ranks apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Labelled:
    """A metric of ``prometheus_client`` whose first labels have fixed values.

    Args:
        kind: ``Counter`` or ``Gauge``.
        fixed: labels of this scheduler, as :func:`of_scheduler` gives them.
        own: names of the labels that differ from one sample to the next.
    """

    def __init__(
        self,
        kind: Any,
        name: str,
        what: str,
        fixed: Mapping[str, str],
        own: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        self._fixed = tuple(fixed.values())
        self._own = bool(own)
        self._metric = kind(f"sglang_hisa:{name}", what, [*fixed, *own], **more)
        if not own:
            self.labels()  # a counter shows 0 before its first event

    def labels(self, *values: str) -> Any:
        """The sample with these values of the own labels."""
        every = (*self._fixed, *values)
        return self._metric.labels(*every) if every else self._metric

    def describe(self) -> Any:
        """What the metric is, as ``prometheus_client`` says it."""
        return self._metric.describe()


def of_scheduler(scheduler: Any) -> dict[str, str]:
    """``model_name``, ``engine_type``, ranks and what ``--extra-metric-labels`` adds, of this scheduler.

    Source: ``SchedulerMetricsCollectorContext`` in SGLang's ``observability/metrics_collector.py``.
    """
    labels = scheduler.metrics_reporter.metrics_collector_context.collector.labels
    return {name: str(value) for name, value in labels.items()}
