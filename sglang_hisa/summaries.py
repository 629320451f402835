"""Page summaries: one per layer and physical page, beside the index-K buffers.

No allocator, no table, no free hook: a page shared by the radix tree shares its summary, a reused page
overwrites it. Every write is :func:`seal <sglang_hisa.kernels.seal.seal_pages>`, a pure function of the
page's stored bytes, so a summary can be rebuilt from them bit for bit at any time.

Who seals, and when:

| keys are written by | sealed by | when |
| --- | --- | --- |
| extend, verify, draft and draft-extend steps | :meth:`.seal_tokens` | after the store of each layer, on \
its stream |
| extend steps left to stock DSA | :meth:`.seal_tokens` | after the first layer's store, when that is not \
known yet, and after the last one's for all layers: stock DSA reads no summary |
| decode steps that run HISA | the coarse launch (``seal_from``) | in each layer, after its store: a row \
never reads the summary of its own block, which holds the page |
| decode steps left to stock DSA, by config or by the graph that they replay | :meth:`.seal_rows` | after \
the last layer, for all of them |
| movers of pages (load from the host, token move, HiCache load, PD receive) | :meth:`.reseal` \
| on the stream that readers of these keys wait for |
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import FP8, HEAD_DIM, SUMMARY_BYTES

_COPIED_PAGES = 2048
_EMPTY_SCALE = reference.quantise(torch.zeros(1, HEAD_DIM))[1].item()
"""Scale of a page of zeros, as SGLang allocates them: summaries are right before the first store, too."""


@dataclass
class LayerSummaries:
    """One layer: ``index_k`` uint8 ``[pages, 8448]``, ``keys`` fp8 ``[pages, 128]``, ``scales`` fp32."""

    index_k: torch.Tensor
    keys: torch.Tensor
    scales: torch.Tensor


class PageSummaries:
    """Summaries of all layers of one KV pool."""

    def __init__(
        self,
        buffers: Sequence[torch.Tensor],
        start_layer: int,
        backend: str,
        *,
        draft: bool = False,
    ) -> None:
        """``buffers``: the pool's index-K buffers, one a layer; a 0-row layer gets 0 summaries.

        ``draft``: the pool is that of a draft model (speculative decoding), whose layers have numbers and
        pages of their own.
        """
        self.start_layer, self.draft = start_layer, draft
        self.backend = backend
        self.layers = [
            LayerSummaries(
                buffer,
                torch.zeros(buffer.shape[0], HEAD_DIM, dtype=FP8, device=buffer.device),
                torch.full((buffer.shape[0],), _EMPTY_SCALE, dtype=torch.float32, device=buffer.device),
            )
            for buffer in buffers
        ]
        self._stored = [
            (layer.index_k, layer.keys, layer.scales) for layer in self.layers if layer.index_k.shape[0]
        ]
        self._offsets = kernels.layer_offsets(self._stored)

    @property
    def nbytes(self) -> int:
        """Bytes of all summaries."""
        return sum(int(layer.index_k.shape[0]) for layer in self.layers) * SUMMARY_BYTES

    def layer(self, layer_id: int) -> LayerSummaries:
        """Summaries of the model's layer ``layer_id`` (a pipeline stage starts at ``start_layer``)."""
        return self.layers[layer_id - self.start_layer]

    def served(self, layer_ids: Collection[int]) -> list[int]:
        """Those of the model's layers ``layer_ids`` whose summaries are here, ascending."""
        return list(self._descending(layer_ids))[::-1]

    def is_last(self, layer_id: int, layer_ids: Collection[int]) -> bool:
        """Whether ``layer_id`` is the last of :meth:`served`, without a look at the others: asked in each."""
        return layer_id == next(self._descending(layer_ids), None)

    def _descending(self, layer_ids: Collection[int]) -> Iterator[int]:
        for i in range(self.start_layer + len(self.layers) - 1, self.start_layer - 1, -1):
            if i in layer_ids and self.layer(i).index_k.shape[0]:
                yield i

    @property
    def first_stored(self) -> int:
        """Number in this pool of the first layer that stores index keys."""
        return next(i for i, layer in enumerate(self.layers) if layer.index_k.shape[0])

    def seal_tokens(self, layer_id: int | None, slots: torch.Tensor) -> None:
        """After a store to ``slots`` (int ``[n]``) of a layer, or of all layers (None) after the last one's:
        seal the pages whose last token is among them."""
        if layer_id is None:
            kernels.seal_tokens(self._stored, self._offsets, slots, self.backend)
        else:
            layer = self.layer(layer_id)
            kernels.seal_tokens([(layer.index_k, layer.keys, layer.scales)], None, slots, self.backend)

    def seal_rows(self, table: torch.Tensor, lengths: torch.Tensor) -> None:
        """After a decode step's last store: seal, in all layers, what its rows' last tokens completed.

        table int32 ``[rows, pages]``, lengths int32 ``[rows]``.
        """
        kernels.seal_rows(self._stored, self._offsets, table, lengths, self.backend)

    def reseal(self, pages: torch.Tensor, layer_id: int | None = None) -> None:
        """Seal ``pages`` (int ``[n]``) of one layer or of all: what a mover of index-K bytes owes us."""
        for layer in self.layers if layer_id is None else [self.layer(layer_id)]:
            if layer.index_k.shape[0]:
                kernels.seal_pages(layer.index_k, pages, layer.keys, layer.scales, self.backend)

    def differs(self, layer_id: int, pages: torch.Tensor) -> torch.Tensor:
        """Whether the summary of each of ``pages`` (int ``[n]``) has a bit unlike its rebuild: bool ``[n]``.

        No host synchronisation; the pages' bytes are copied, 17 MB at a time.
        """
        layer = self.layer(layer_id)
        found = []
        for part in pages.long().split(_COPIED_PAGES):
            count, device = part.shape[0], part.device
            keys = torch.empty(count, HEAD_DIM, dtype=FP8, device=device)
            scales = torch.empty(count, dtype=torch.float32, device=device)
            ids = torch.arange(count, device=device)
            bytes_of = layer.index_k[part]
            kernels.seal_pages(bytes_of, ids, keys, scales, self.backend)
            same = (keys.view(torch.uint8) == layer.keys.view(torch.uint8)[part]).all(dim=1)
            same &= scales.view(torch.int32) == layer.scales.view(torch.int32)[part]
            found.append(~same)
        return torch.cat(found)


def pages_of(slots: torch.Tensor) -> torch.Tensor:
    """Physical pages (int64, unique) of token slots."""
    return torch.unique(slots.long() // PAGE)
