"""Audit: what pruning costs on the live server, from a sample of its own prefill rows.

Sampled rows are chosen a second time from their whole context, as stock DSA would, and compared. Sums stay
on the device: an audited step makes no host synchronisation; :meth:`Audit.report` does when it is asked.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from sglang_hisa.budget import KEEP_ALL
from sglang_hisa.config import PAGE, Config
from sglang_hisa.host import Host
from sglang_hisa.indexer import Output, Plan, Rows, make_prefill_plan, select
from sglang_hisa.summaries import LayerSummaries


@dataclass(frozen=True)
class Sample:
    """Rows of one step that are audited in each of its layers."""

    rows: torch.Tensor
    """int64 ``[n]``, indices of the step's rows."""
    pruned: torch.Tensor
    """bool ``[n]``: rows that kept less than their context."""
    expected: torch.Tensor
    """int64 ``[n]``: tokens that stock DSA takes, min(length, index_topk)."""
    plan: Plan
    """Plan of these rows with their whole context."""


def shared(chosen: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """How many of ``truth``'s entries ``chosen`` has, row by row; -1 is no entry.

    Both int32 ``[n, k]`` with distinct entries a row -> int64 ``[n]``.
    """
    ordered = truth.sort(dim=1).values
    at = torch.searchsorted(ordered, chosen).clamp_max(truth.shape[1] - 1)
    return ((torch.gather(ordered, 1, at) == chosen) & (chosen >= 0)).sum(dim=1)


class Audit:
    """Recall per layer since the server started."""

    def __init__(self, fraction: float) -> None:
        """``fraction`` of the prefill rows that HISA serves, from 0 (off) to 1."""
        self._stride = round(1 / fraction) if fraction > 0 else 0
        self._step = 0
        self._sums: dict[int, torch.Tensor] = {}

    def sample(
        self, plan: Plan, contexts: list[int], config: Config, host: Host, refine: str
    ) -> Sample | None:
        """Choose the rows of a new step; None when the audit is off or the step is too short."""
        rows = plan.rows
        if not self._stride:
            return None
        self._step += 1
        count = rows.lengths.shape[0]
        chosen = torch.arange(self._step % self._stride, count, self._stride, device=rows.lengths.device)
        if not chosen.numel():
            return None
        picks = torch.cat([chunk.picks for chunk in plan.chunks])[chosen]
        lengths = rows.lengths[chosen]
        whole = Rows(
            lengths,
            rows.table,
            None if rows.table_rows is None else rows.table_rows[chosen],
            rows.max_length,
            KEEP_ALL,
            0,
            -(-rows.max_length // PAGE),
        )
        pruned = picks < torch.div((lengths - 1).clamp_min(0), config.block, rounding_mode="floor")
        expected = lengths.clamp_max(host.index_topk).long()
        return Sample(chosen, pruned, expected, make_prefill_plan(whole, contexts, config, host, refine))

    def observe(
        self,
        layer_id: int,
        sample: Sample,
        chosen: torch.Tensor,
        q: torch.Tensor,
        weights: torch.Tensor,
        layer: LayerSummaries,
        config: Config,
        host: Host,
        output: Output,
        backend: str,
    ) -> None:
        """Compare what a layer chose, int32 ``[rows, index_topk]``, with the choice from whole contexts."""
        at = sample.rows
        if output.offsets is not None:
            output = dataclasses.replace(output, offsets=output.offsets[at])
        args = (layer, sample.plan, config, host, output, backend)
        truth = select(q[at].contiguous(), weights[at].contiguous(), *args)
        recall = shared(chosen[at], truth).double() / sample.expected
        total = torch.stack((recall[sample.pruned].sum(), sample.pruned.sum().double()))
        if layer_id in self._sums:
            self._sums[layer_id] += total
        else:
            self._sums[layer_id] = total

    def report(self) -> dict[str, Any]:
        """``{"rows", "recall", "worst_layer", "worst_recall", "layers"}``; recall is None before any row."""
        layers = {layer: total.tolist() for layer, total in sorted(self._sums.items())}
        by_layer = {layer: total / rows for layer, (total, rows) in layers.items() if rows}
        rows = sum(rows for _, rows in layers.values())
        worst = min(by_layer, key=lambda layer: by_layer[layer]) if by_layer else None
        return {
            "rows": int(rows),
            "recall": sum(total for total, _ in layers.values()) / rows if rows else None,
            "worst_layer": worst,
            "worst_recall": None if worst is None else by_layer[worst],
            "layers": by_layer,
        }
