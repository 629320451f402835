"""Metrics of rows, candidates, rebuilt summaries and audit: what the device counted, told once a second.

The copy is queued on the forward stream between two forwards and read once it has arrived, so neither
the scheduler nor a decode step waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from sglang_hisa.audit import summarise
from sglang_hisa.counts import IN_GRAPHS, KINDS
from sglang_hisa.patches.metric_labels import Labelled
from sglang_hisa.patches.runtime import Runtime

SECONDS = 1.0
MOVERS = ("load_cpu_copy", "move_kv_cache", "hicache_load", "pd_receive")
_COLUMNS = ("rows", "context_tokens", "candidate_tokens")

_AUDIT = {
    "recall": "share of stock DSA's tokens that HISA chose, mean of the audited rows",
    "worst_recall": "recall in the layer where it is lowest",
    "worst_layer": "the layer where recall is lowest",
    "missed_mass": "softmax(index score) of stock DSA's tokens that HISA did not choose, mean of the rows",
    "worst_missed_mass": "missed mass in the layer where it is highest",
}
"""Gauges made from :func:`sglang_hisa.audit.summarise`."""


class _Copy:
    """Device counts on their way to the host."""

    def __init__(self, sums: torch.Tensor, layers: list[int], audited: torch.Tensor | None) -> None:
        self.layers = layers
        parts = [sums.double().flatten()] + ([] if audited is None else [audited.flatten()])
        counts = torch.cat(parts)  # float64 holds every whole number below 2**53
        self._event = torch.cuda.Event() if counts.is_cuda else None
        self._host = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=counts.is_cuda)
        self._host.copy_(counts, non_blocking=True)
        if self._event is not None:
            self._event.record()

    def arrived(self) -> bool:
        return self._event is None or self._event.query()

    def values(self) -> tuple[list[list[float]], list[list[float]]]:
        """Sums of rows by kind, and of the audit by layer; waits if they have not arrived."""
        if self._event is not None:
            self._event.synchronize()
        triples = self._host.view(-1, 3).tolist()
        return triples[: len(KINDS)], triples[len(KINDS) :]


class LiveMetrics:
    """Registers its metrics and asks the runtime to be told of forwards and of idle time."""

    def __init__(self, state: Runtime, fixed: Mapping[str, str]) -> None:
        """``fixed``: labels of each metric (:func:`metric_labels.of_scheduler`).

        Call only once SGLang has set up prometheus' multiprocess directory.
        """
        from prometheus_client import Counter, Gauge

        def gauge(name: str, what: str, own: tuple[str, ...] = ()) -> Labelled:
            return Labelled(Gauge, name, what, fixed, own, multiprocess_mode="mostrecent")

        def counter(name: str, what: str, own: tuple[str, ...] = ()) -> Labelled:
            return Labelled(Counter, name, what, fixed, own)

        phase, reason = ("phase",), ("reason",)
        self.metrics: dict[str, Labelled] = {
            "rows": counter("rows", "query rows that HISA served", phase),
            "candidate_tokens": counter("candidate_tokens", "tokens that these rows scored", phase),
            "context_tokens": counter("context_tokens", "tokens that these rows could see", phase),
            "candidate_share": gauge("candidate_share", "candidate tokens / context tokens so far", phase),
            "stock_rows": counter("stock_rows", "query rows left to the stock indexer", reason),
            "summary_rebuilds": counter(
                "summary_rebuilds", "pages resealed because something moved them", ("mover",)
            ),
        }
        if state.config.audit:
            self.metrics["audit_rows"] = counter("audit_rows", "pruned rows audited, once for each layer")
            for name, what in _AUDIT.items():
                self.metrics[f"audit_{name}"] = gauge(f"audit_{name}", what)
                self.metrics[f"audit_{name}"].labels().set(float("nan"))  # not 0 before any row was audited
        self._state = state
        self._told: dict[tuple[str, ...], float] = {}
        self._pending: _Copy | None = None
        self._last = 0.0
        self._fresh = True
        for mover in MOVERS:
            self.metrics["summary_rebuilds"].labels(mover)
        self._tell(*self._copy().values(), [])
        state.on_forward, state.on_idle = self.forward, self.idle

    def _copy(self) -> _Copy:
        sums = self._state.rows.sums
        assert sums is not None, "the scheduler is up, so its pool is"
        return _Copy(sums, *self._state.audit.totals())

    def forward(self) -> None:
        """Before a forward, on its stream: tell what has arrived, and send for the next once a second."""
        self._fresh = True
        if self._pending is not None and self._pending.arrived():
            self._tell(*self._pending.values(), self._pending.layers)
            self._pending = None
        now = time.monotonic()
        if self._pending is None and now - self._last >= SECONDS:
            self._pending, self._last = self._copy(), now

    def idle(self) -> None:
        """When nothing is to be done: tell what the steps since the last call have counted."""
        if self._fresh:
            self._fresh, self._pending = False, None
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()  # the scheduler's stream is not the one that counts
            copy = self._copy()
            self._tell(*copy.values(), copy.layers)

    def _raise_to(self, name: str, total: float, *labels: str) -> None:
        self.metrics[name].labels(*labels).inc(total - self._told.get((name, *labels), 0))
        self._told[(name, *labels)] = total

    def _tell(self, sums: list[list[float]], audited: list[list[float]], layers: list[int]) -> None:
        for kind, counts in zip(KINDS, sums):
            if kind in IN_GRAPHS:
                if counts[0]:
                    self._raise_to("stock_rows", counts[0], kind)
                continue
            for column, count in zip(_COLUMNS, counts):
                self._raise_to(column, count, kind)
            if counts[1]:
                self.metrics["candidate_share"].labels(kind).set(counts[2] / counts[1])
        for reason, rows in self._state.stock_rows.items():
            self._raise_to("stock_rows", rows, reason)
        for mover, pages in self._state.rebuilt.items():
            self._raise_to("summary_rebuilds", pages, mover)
        report = summarise(layers, audited)
        if report["rows"]:
            self._raise_to("audit_rows", report["rows"])
            for name in _AUDIT:
                self.metrics[f"audit_{name}"].labels().set(report[name])
