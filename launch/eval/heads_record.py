"""The record of `python -m sglang_hisa.launch.research.recall_heads`, which asks as `hisa eval` does."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_hisa.launch.common import record


@dataclass(frozen=True, kw_only=True)
class KeptBy(record.Row):
    """What a way to choose (``launch/research/heads.py``) keeps of stock's choice in a layer."""

    context: int
    kind: str
    """Rows that predict an answer, ``answer``, or ``other`` ones."""
    layer: int
    tokens: int
    heads: int
    group: int
    router: str
    rescored: int
    coarse_heads: int
    arithmetic: float
    keys: float
    recall: float
    mass: float
    places: int
    """Prompts and depths that the shares are means over."""


@dataclass(frozen=True, kw_only=True)
class HeadsRecord(record.Record):
    """Every way, by context, kind of rows and layer."""

    kind: str = "hisa-recall-heads"
    tasks: tuple[str, ...]
    contexts: tuple[int, ...]
    topk: int
    samples: int
    seed: int
    heads: int
    """Index heads of the model."""
    rows: tuple[KeptBy, ...] = ()
