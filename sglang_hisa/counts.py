"""How many rows were served how, and how much of their context they looked at: sums on the device.

A step adds to them with one launch, captured in a graph as well, and without host synchronisation; whoever
reads them (``/server_info``, metrics) does so between forwards.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch

from sglang_hisa import kernels


class StockReason(StrEnum):
    """Why the stock indexer serves a whole step. Receipts and metrics show the text."""

    DECODE_NO_ROWS = "decode: no rows"
    DECODE_OFF = "decode: phase left to stock DSA"
    DECODE_NOTHING_TO_GAIN = "decode: little or nothing to prune"
    PREFILL_CONTEXT_PARALLEL = "prefill: context parallel"
    PREFILL_NO_ROWS = "prefill: no rows"
    PREFILL_NO_REQUEST = "prefill: rows of no request"
    PREFILL_OFF = "prefill: phase left to stock DSA"
    PREFILL_END_OF_PROMPTS = "prefill: end of prompts"
    PREFILL_FITS = "prefill: within the budget"


IN_GRAPHS = (StockReason.DECODE_OFF, StockReason.DECODE_NOTHING_TO_GAIN)
"""The reasons that a replayed graph can have; all other stock rows are counted on the host."""

KINDS: tuple[str, ...] = ("decode", "prefill", *IN_GRAPHS)
"""What is counted on the device: rows that HISA served, by kind of step, and stock decode rows."""


class RowCounts:
    """Rows, candidate tokens and context tokens of each of ``KINDS`` since the server started.

    Of a row that keeps its whole page table every token is a candidate.
    """

    def __init__(self) -> None:
        self.sums: torch.Tensor | None = None
        """int64 ``[len(KINDS), 3]``; None before :meth:`allocate`."""
        self._backend = ""

    def allocate(self, device: torch.device, backend: str) -> None:
        """Make the sums, once, before a graph that adds to them is captured; ``backend`` adds to them."""
        if self.sums is None:
            self._backend = backend
            self.sums = torch.zeros(len(KINDS), 3, dtype=torch.int64, device=device)

    def add(self, kind: str, lengths: torch.Tensor, candidates: torch.Tensor, padding: int = 0) -> None:
        """Rows of one step: int32 ``[rows]`` each, the tokens that a row sees and those that it scored.

        Rows of up to ``padding`` tokens are not counted: the padded rows of a decode graph have SGLang's fill
        value 1, and a real decode row at least 2 tokens. Padded rows of a verify graph have up to 1 plus its
        draft tokens; so do the first rows after a prompt shorter than that, which then are not counted.

        Raises:
            RuntimeError: no KV pool, so no device, is known yet.
        """
        if self.sums is None:
            raise RuntimeError("sglang-hisa: rows came before the KV pool")
        kernels.count_rows(lengths, candidates, padding, self.sums[KINDS.index(kind)], self._backend)

    def report(self) -> dict[str, dict[str, Any]]:
        """``{kind: {"rows", "candidate_tokens", "context_tokens", "candidate_share"}}``; waits for it.

        The share is None before the first row.
        """
        values = [[0, 0, 0]] * len(KINDS) if self.sums is None else self.sums.tolist()
        return {
            str(kind): {
                "rows": rows,
                "candidate_tokens": candidates,
                "context_tokens": context,
                "candidate_share": candidates / context if context else None,
            }
            for kind, (rows, context, candidates) in zip(KINDS, values)
        }
