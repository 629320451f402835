"""One forward over SGLang's pool: layer after layer stores its keys, and our patches seal them.

The patches on SGLang's indexer are the real ones. The history says which of the two serves a step, and where
HISA would choose tokens, the summaries that its rows may read are compared with the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from sglang_hisa import PAGE
from sglang_hisa import indexer as paths
from sglang_hisa import plan as planning
from sglang_hisa.config import Config
from sglang_hisa.counts import StockReason
from sglang_hisa.patches import indexer, runtime
from sglang_hisa.patches.steps import Step
from tests.history import candidates, truth
from tests.history.sglang_cache import LAYERS


@dataclass(frozen=True)
class Batch:
    """The rows of a step."""

    kind: str
    """``extend``, ``decode`` or ``verify``."""
    requests: list[torch.Tensor]
    """Slots of each request, those of this step at the end."""
    rows: int
    """New tokens of each request."""
    speculative: bool = False
    """Whether its decode rows are those of a draft model, which seal what they store."""

    @property
    def seals_rows(self) -> bool:
        return self.kind == "decode" and not self.speculative

    @property
    def lengths(self) -> torch.Tensor:
        """int32: tokens that each row sees."""
        each = [torch.arange(len(slots) - self.rows, len(slots)) + 1 for slots in self.requests]
        return torch.cat(each).int()

    def readable(self, block: int) -> list[int]:
        """Pages whose summaries its rows may read: those of blocks wholly before the one of a last row."""
        earlier = [slots[: (len(slots) - 1) // block * block : PAGE] for slots in self.requests]
        return sorted(set((torch.cat(earlier) // PAGE).tolist()))

    def for_sglang(self, slots: torch.Tensor) -> Any:
        """What our patches read of a ``ForwardBatch`` that stores to ``slots``."""
        mode = SimpleNamespace(is_decode=lambda: self.kind == "decode")
        spec_info = self.kind == "verify" or self.speculative or None
        return SimpleNamespace(forward_mode=mode, spec_info=spec_info, out_cache_loc=slots)


@dataclass(frozen=True)
class _Running:
    """The forward that runs."""

    batch: Batch
    lengths: torch.Tensor
    step: Step | StockReason
    block: int
    checked: int
    """The layer in which its reads are checked."""


class Forwards:
    """Forwards over the pool ``kv``, whose keys ``ledger`` knows, until :meth:`stop`."""

    def __init__(self, kv: Any, ledger: truth.Ledger) -> None:
        self._kv, self._ledger = kv, ledger
        self._summaries = kv._hisa_summaries
        self._count = 0
        self._running: _Running
        runtime.current().layers = set(range(LAYERS))
        # What the patches ask SGLang for, and what they would make of its answer.
        self._patch = mock.patch.multiple(
            indexer,
            SglangKernels=lambda *args, **kwargs: None,
            _summaries=lambda layer_id: (self._summaries, self._kv),
            _prefill_step=lambda *args: self._running.step,
            _decode_step=lambda *args: self._running.step,
            _count_rows=lambda *args: None,
            paths=SimpleNamespace(Queries=paths.Queries, select=self._choose),
        )
        self._patch.start()

    def stop(self) -> None:
        self._patch.stop()

    def run(self, batch: Batch, slots: torch.Tensor, tokens: list[int], config: Config, stock: bool) -> None:
        """Store ``tokens`` to ``slots``, a graph's padding included; HISA or stock DSA chooses."""
        ids = torch.tensor(tokens)
        self._ledger.write(slots, ids)
        lengths = batch.lengths
        rows = candidates.rows_of(batch.requests, config) if batch.seals_rows else None
        self._running = _Running(
            batch, lengths, _step(batch, lengths, rows, config, stock), config.block, self._count % LAYERS
        )
        self._count += 1
        metadata = SimpleNamespace(
            attn_metadata=object(),
            get_page_table_64=lambda: rows and rows.table,
            get_seqlens_expanded=lambda: lengths,
            get_dsa_extend_len_cpu=lambda: [batch.rows] * len(batch.requests),
        )
        forward_batch, (q, weights) = batch.for_sglang(slots), candidates.query(len(lengths))
        for layer in range(LAYERS):
            truth.store(self._kv.get_index_k_with_scale_buffer(layer), layer, slots, ids)
            indexer.after_store(None, None, forward_batch, layer, None)
            args = (forward_batch, layer, q, weights[:, :, None], metadata)
            if batch.kind == "extend":
                indexer.around_topk_ragged(_stock_choice, None, False, *args)
            else:
                indexer.around_topk_paged(_stock_choice, None, *args)

    def _choose(
        self, queries: paths.Queries, plan: Any, setup: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """In place of a choice: check what its rows may read, and seal in the coarse launch if it does."""
        running = self._running
        if queries.layer is self._summaries.layers[running.checked]:
            self._ledger.summaries_are_those_of_their_tokens(
                {running.checked: queries.layer}, running.batch.readable(running.block)
            )
        if plan.seals:
            paths.block_scores(queries, plan, plan.chunks[0], setup, None)
        return queries.q


def _step(
    batch: Batch, lengths: torch.Tensor, rows: planning.Rows | None, config: Config, stock: bool
) -> Step | StockReason:
    if stock:
        return StockReason.PREFILL_FITS if batch.kind == "extend" else StockReason.DECODE_NOTHING_TO_GAIN
    plan: Any = SimpleNamespace(rows=SimpleNamespace(lengths=lengths), seals=False)
    if rows is not None:
        plan = candidates.plan(rows, config, seals=True)
    return Step(plan, candidates.setup(config), paths.Output(physical=True))


def _stock_choice(*args: Any) -> torch.Tensor:
    return torch.empty(0)
