"""Audit: what pruning costs on the live server, from a sample of its own prefill rows.

Sampled rows are chosen a second time from their whole context, as stock DSA would, and compared. Sums stay
on the device: an audited step makes no host synchronisation; :meth:`Audit.report` does when it is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from sglang_hisa import PAGE
from sglang_hisa.budget import KEEP_ALL
from sglang_hisa.indexer import Output, Queries, select
from sglang_hisa.kernels.reference import slot_scores
from sglang_hisa.plan import Plan, Rows, Setup, make_prefill_plan

TURNS = 9
"""A step audits every ninth layer, others at the next: what a layer's audit costs hardly depends on its rows
(82 of them 0.7 ms at 24K, 0.8 at 120K: ``ab-watching`` of 2cea24dd4254). Odd, so that no layer meets only
the first rows of groups."""


@dataclass(frozen=True)
class Sample:
    """Rows of one step that are audited in some of its layers."""

    turn: int
    """Which layers: see :data:`TURNS`."""
    rows: torch.Tensor
    """int64 ``[n]``, indices of the step's rows."""
    pruned: torch.Tensor
    """bool ``[n]``: rows that scored less than their context, or with fewer heads."""
    expected: torch.Tensor
    """int64 ``[n]``: tokens that stock DSA takes, min(length, index_topk)."""
    plan: Plan
    """Plan of these rows with their whole context."""


def kept(truth: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Which entries of ``truth`` are among ``chosen`` in the same row; -1 is no entry.

    Both int32 ``[n, k]`` with distinct entries a row -> bool ``[n, k]``.
    """
    ordered = chosen.sort(dim=1).values
    at = torch.searchsorted(ordered, truth).clamp_max(chosen.shape[1] - 1)
    return (torch.gather(ordered, 1, at) == truth) & (truth >= 0)


def _slots(chosen: torch.Tensor, rows: Rows, output: Output) -> torch.Tensor:
    """KV slots of what rows chose in the form of ``output``: int64 ``[n, k]``, -1 padded."""
    if output.physical:
        return chosen.long()
    positions = chosen if output.offsets is None else chosen - output.offsets[:, None]
    at = torch.where(chosen >= 0, positions, 0).long()
    table = rows.table if rows.table_rows is None else rows.table[rows.table_rows.long()]
    slots = torch.gather(table, 1, at // PAGE).long() * PAGE + at % PAGE
    return slots.masked_fill(chosen < 0, -1)


class Audit:
    """Recall and missed score mass per layer since the server started.

    Recall is the share of stock DSA's tokens that HISA chose as well. Missed score mass weighs those that it
    did not choose by softmax(index score) over stock DSA's tokens: the distribution that DeepSeek-V3.2 trains
    its indexer to match the attention with (its report, section 2.1.1).
    """

    def __init__(self, fraction: float) -> None:
        """``fraction`` of the prefill rows that HISA serves, 0 (off) to 1; from 1/9 on in every layer."""
        self._stride = round(1 / fraction) if fraction > 0 else 0
        self._turns = TURNS if self._stride >= TURNS else 1
        self._step = 0
        self._sums: dict[int, torch.Tensor] = {}

    def sample(self, plan: Plan, contexts: list[int], setup: Setup) -> Sample | None:
        """Choose the rows of a new step; None when the audit is off or the step is too short."""
        rows = plan.rows
        if not self._stride:
            return None
        self._step += 1
        first, count = self._step % self._stride, rows.lengths.shape[0]
        if first >= count:  # torch.arange refuses an empty range that starts past its end
            return None
        chosen = torch.arange(first, count, self._stride, device=rows.lengths.device)
        lengths = rows.lengths[chosen]
        whole = Rows(
            lengths=lengths,
            table=rows.table,
            table_rows=None if rows.table_rows is None else rows.table_rows[chosen],
            max_length=rows.max_length,
            blocks=KEEP_ALL,
            share=0,
            width=-(-rows.max_length // PAGE),
        )
        return Sample(
            turn=self._step % self._turns,
            rows=chosen,
            pruned=plan.pruned()[chosen],
            expected=lengths.clamp_max(setup.stock.index_topk).long(),
            plan=make_prefill_plan(whole, contexts, setup, plan.refine),
        )

    def observe(
        self,
        layer_id: int,
        sample: Sample,
        chosen: torch.Tensor,
        queries: Queries,
        setup: Setup,
        output: Output,
    ) -> None:
        """Compare what a layer chose, int32 ``[rows, index_topk]``, with the choice from whole contexts.

        Does nothing where it is not the layer's turn.
        """
        if layer_id % self._turns != sample.turn:
            return
        asked, output = queries.at(sample.rows), output.at(sample.rows)
        asked = replace(asked, q=asked.q.contiguous(), weights=asked.weights.contiguous())
        truth = select(asked, sample.plan, setup, output)
        found = kept(truth, chosen[sample.rows])
        slots = _slots(truth, sample.plan.rows, output)
        scores = slot_scores(asked.q, asked.weights, asked.layer.index_k, slots)
        missed = scores.softmax(dim=1).masked_fill(found, 0).sum(dim=1).double()
        recall = found.sum(dim=1).double() / sample.expected
        # Not an index with the mask: that would wait for the device.
        values = torch.stack((recall, missed, torch.ones_like(recall)))
        total = torch.where(sample.pruned, values, 0).sum(dim=1)
        if layer_id in self._sums:
            self._sums[layer_id] += total
        else:
            self._sums[layer_id] = total

    def totals(self) -> tuple[list[int], torch.Tensor | None]:
        """Audited layers, ascending, and float64 ``[layers, 3]`` on the device: sums of recall and of missed
        mass, and pruned rows; None before the first sample."""
        layers = sorted(self._sums)
        return layers, torch.stack([self._sums[layer] for layer in layers]) if layers else None

    def report(self) -> dict[str, Any]:
        """:func:`summarise` of the totals; waits for the device."""
        layers, totals = self.totals()
        return summarise(layers, [] if totals is None else totals.tolist())


def summarise(layers: list[int], totals: list[list[float]]) -> dict[str, Any]:
    """``{"rows", "recall", "worst_layer", "worst_recall", "missed_mass", "worst_missed_mass", "layers"}``.

    ``rows`` counts a row once for each layer; the worst layer is that of the lowest recall; ``layers`` maps a
    layer to its recall. All but ``rows`` and ``layers`` are None before any pruned row.
    """
    seen = {layer: total for layer, total in zip(layers, totals) if total[2]}
    rows = sum(total[2] for total in seen.values())
    recall = {layer: total[0] / total[2] for layer, total in seen.items()}
    worst = min(recall, key=lambda layer: recall[layer]) if recall else None
    return {
        "rows": int(rows),
        "recall": sum(total[0] for total in seen.values()) / rows if rows else None,
        "worst_layer": worst,
        "worst_recall": None if worst is None else recall[worst],
        "missed_mass": sum(total[1] for total in seen.values()) / rows if rows else None,
        "worst_missed_mass": max((total[1] / total[2] for total in seen.values()), default=None),
        "layers": recall,
    }
