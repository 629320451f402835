"""What a page's summary must be, rebuilt from the tokens that were stored to it and never from the pool.

The index key of a token is a function of its id alone, so a ledger of the token in each slot is all it takes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sglang_hisa import PAGE
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import FP8, HEAD_DIM, KEY_BYTES, ROW_BYTES
from sglang_hisa.summaries import LayerSummaries
from tests.history.sglang_cache import LAYERS

VOCABULARY = 997


def _token_keys() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each layer, key bytes ``[VOCABULARY, 128]`` and scales ``[VOCABULARY]`` of every token id."""
    random = torch.Generator().manual_seed(7)
    made = []
    for _ in range(LAYERS):
        keys = (torch.randn(VOCABULARY, HEAD_DIM, generator=random) * 40).clamp(-448, 448).to(FP8)
        made.append((keys.view(torch.uint8), torch.rand(VOCABULARY, generator=random) + 0.01))
    return made


KEYS = _token_keys()


def store(index_k: torch.Tensor, layer: int, slots: torch.Tensor, tokens: torch.Tensor) -> None:
    """What a forward's store does to the layer's buffer, uint8 ``[pages, 8448]``."""
    page, at = slots // PAGE, slots % PAGE
    keys, scales = KEYS[layer]
    index_k[:, :KEY_BYTES].view(-1, PAGE, HEAD_DIM)[page, at] = keys[tokens]
    index_k.view(torch.float32)[:, KEY_BYTES // 4 :][page, at] = scales[tokens]


class Ledger:
    """Token id of each slot, and the summaries that follow from them."""

    def __init__(self, pages: int) -> None:
        self.tokens = torch.zeros((pages + 1) * PAGE, dtype=torch.int64)
        self._summaries = torch.zeros(pages + 1, LAYERS, HEAD_DIM + 4, dtype=torch.uint8)
        self._changed: set[int] = set()

    def write(self, slots: torch.Tensor, tokens: torch.Tensor) -> None:
        self.tokens[slots] = tokens
        self._changed |= set((slots // PAGE).tolist())

    def summaries(self, pages: list[int]) -> torch.Tensor:
        """uint8 ``[n, LAYERS, 132]``: key and scale bytes."""
        new = sorted(self._changed & set(pages))
        if new:
            tokens = self.tokens.view(-1, PAGE)[new]
            for layer, (keys, scales) in enumerate(KEYS):
                bytes_of = (keys[tokens].flatten(1), scales[tokens].view(torch.uint8))
                rows = torch.cat(bytes_of, dim=1).view(len(new), ROW_BYTES)
                means = reference.page_means(rows, torch.arange(len(new)))
                key, scale = reference.quantise(means)
                made = (key.view(torch.uint8), scale[:, None].view(torch.uint8))
                self._summaries[new, layer] = torch.cat(made, dim=1)
            self._changed -= set(new)
        return self._summaries[pages]

    def summaries_are_those_of_their_tokens(
        self, layers: Mapping[int, LayerSummaries], pages: list[int]
    ) -> None:
        """In ``layers``, by their numbers; ``pages`` are complete."""
        expected = self.summaries(pages)
        for number, layer in layers.items():
            scales = layer.scales[pages][:, None].view(torch.uint8)
            found = torch.cat((layer.keys.view(torch.uint8)[pages], scales), dim=1)
            wrong = (found != expected[:, number]).any(dim=1).nonzero().flatten().tolist()
            assert not wrong, f"layer {number}, pages {[pages[at] for at in wrong]}"
