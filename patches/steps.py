"""What the layers of a forward share: kept on its batch by the first layer, used by those after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglang_hisa.audit import Sample
from sglang_hisa.counts import StockReason
from sglang_hisa.indexer import Output
from sglang_hisa.plan import Plan, Setup
from sglang_hisa.summaries import PageSummaries


@dataclass(frozen=True)
class Step:
    """A step that runs HISA."""

    plan: Plan
    setup: Setup
    output: Output
    sample: Sample | None = None


@dataclass
class _Forward:
    """A forward as far as it has come."""

    metadata: Any
    """SGLang's, of its attention."""
    pool: PageSummaries
    layer: int
    """The newest that asked for the step."""
    step: Step | StockReason


_NAME = "_hisa_forward"
_STOCK = (StockReason.PREFILL_OFF, StockReason.PREFILL_END_OF_PROMPTS, StockReason.PREFILL_FITS)


def keep(batch: Any, pool: PageSummaries, layer_id: int, metadata: Any, step: Step | StockReason) -> None:
    """Note what ``layer_id``, the first layer of a forward, made of it."""
    setattr(batch, _NAME, _Forward(metadata.attn_metadata, pool, layer_id, step))


def kept(batch: Any, layer_id: int, metadata: Any) -> Step | StockReason | None:
    """What an earlier layer of the same forward made: its plan, or the reason to leave it to stock.

    A forward visits layers in ascending order, so a layer that is not above the last one starts a new
    forward over the same batch object (graph warm-up and capture, draft steps).
    """
    forward: _Forward | None = getattr(batch, _NAME, None)
    if forward is None or forward.metadata is not metadata.attn_metadata or layer_id <= forward.layer:
        return None
    forward.layer = layer_id
    return forward.step


def left_to_stock(batch: Any, pool: PageSummaries, layer_id: int) -> bool:
    """Whether the extend step that ``layer_id`` has just stored its keys in is known to be stock DSA's: a
    lower layer of ``pool`` has asked for it, and so will all that are left."""
    forward: _Forward | None = getattr(batch, _NAME, None)
    if forward is None or forward.pool is not pool or forward.layer >= layer_id:
        return False
    return isinstance(forward.step, StockReason) and forward.step in _STOCK
