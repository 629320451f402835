"""Ways of getting our own code wrong, each put in place of the right code by ``monkeypatch``.

docs/reliability.md lists them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from sglang_hisa import PAGE, budget, kernels
from sglang_hisa.patches import pool as pool_hooks
from sglang_hisa.patches import steps
from sglang_hisa.summaries import PageSummaries

SUMMARY = "summaries_are_those_of_their_tokens"
CANDIDATES = "candidates_are_those_of_the_row"


def _seal(
    change: Callable[[PageSummaries, int | None, torch.Tensor], torch.Tensor],
) -> Callable[[Any], None]:
    """A mutant that seals after other slots than those stored to, in a layer or (None) in all."""

    def apply(monkeypatch: Any) -> None:
        right = PageSummaries.seal_tokens

        def wrong(self: PageSummaries, layer_id: int | None, slots: torch.Tensor) -> None:
            right(self, layer_id, change(self, layer_id, slots))

        monkeypatch.setattr(PageSummaries, "seal_tokens", wrong)

    return apply


def _written_once(self: PageSummaries, layer: int | None, slots: torch.Tensor) -> torch.Tensor:
    index_k, scales = self.layer(layer or 0).index_k, self.layer(layer or 0).scales
    untouched = PageSummaries([index_k[:1]], 0, "torch").layer(0).scales
    return slots[(scales == untouched)[slots // PAGE]]


def _long_stores_only(self: PageSummaries, layer: int | None, slots: torch.Tensor) -> torch.Tensor:
    return slots if len(slots) > 9 else slots[:0]


def _other_page(self: PageSummaries, layer: int | None, slots: torch.Tensor) -> torch.Tensor:
    return (slots + PAGE) % (self.layers[0].index_k.shape[0] * PAGE)


def _first_page_only(self: PageSummaries, layer: int | None, slots: torch.Tensor) -> torch.Tensor:
    return slots[slots % PAGE == PAGE - 1][:1]


def _coarse_does_not_seal(monkeypatch: Any) -> None:
    right = kernels.coarse_scores

    def wrong(*args: Any, **kwargs: Any) -> None:
        right(*args, **{**kwargs, "seal_from": None})

    monkeypatch.setattr(kernels, "coarse_scores", wrong)


def _stock_decode_forgets_the_last_layer(monkeypatch: Any) -> None:
    right = kernels.seal_rows
    monkeypatch.setattr(kernels, "seal_rows", lambda layers, *args: right(layers[:-1], *args))


def _stock_extend_seals_its_last_layer_alone(monkeypatch: Any) -> None:
    right = PageSummaries.seal_tokens

    def wrong(self: PageSummaries, layer_id: int | None, slots: torch.Tensor) -> None:
        right(self, len(self.layers) - 1 if layer_id is None else layer_id, slots)

    monkeypatch.setattr(PageSummaries, "seal_tokens", wrong)


def _every_extend_seals_at_its_end(monkeypatch: Any) -> None:
    monkeypatch.setattr(steps, "left_to_stock", lambda batch, pool, layer_id: layer_id > 0)


def _last_page_is_not_sealed(monkeypatch: Any) -> None:
    right = kernels.reference.seal_pages

    def wrong(index_k: torch.Tensor, pages: torch.Tensor, *where: Any) -> None:
        right(index_k, pages[:-1] if len(pages) > 1 else pages, *where)

    monkeypatch.setattr(kernels.reference, "seal_pages", wrong)


def _load_does_not_reseal(monkeypatch: Any) -> None:
    monkeypatch.setattr(pool_hooks, "after_load_cpu_copy", lambda *args: None)


def _load_forgets_the_first_page(monkeypatch: Any) -> None:
    right = pool_hooks.after_load_cpu_copy

    def wrong(result: None, self: Any, copy: Any, slots: torch.Tensor) -> None:
        right(result, self, copy, slots[PAGE:])

    monkeypatch.setattr(pool_hooks, "after_load_cpu_copy", wrong)


def _host_load_does_not_reseal(monkeypatch: Any) -> None:
    monkeypatch.setattr(pool_hooks, "after_host_load", lambda *args: None)


def _host_load(change: Callable[[torch.Tensor, int], tuple[torch.Tensor, int]]) -> Callable[[Any], None]:
    """A mutant that reseals after other slots or another layer than those that HiCache loaded."""

    def apply(monkeypatch: Any) -> None:
        right = pool_hooks.after_host_load

        def wrong(result: None, self: Any, kv: Any, host: Any, device: Any, layer: int, io: str) -> None:
            right(result, self, kv, host, *change(device, layer), io)

        monkeypatch.setattr(pool_hooks, "after_host_load", wrong)

    return apply


def _pick(**changes: Any) -> Callable[[Any], None]:
    """A mutant whose page choice gets other arguments."""

    def apply(monkeypatch: Any) -> None:
        right = kernels.pick_pages

        def wrong(*args: Any, **kwargs: Any) -> None:
            right(*args, **{**kwargs, **{name: change(kwargs[name]) for name, change in changes.items()}})

        monkeypatch.setattr(kernels, "pick_pages", wrong)

    return apply


def _candidates_past_the_length(monkeypatch: Any) -> None:
    right = kernels.plan_rows

    def wrong(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        picks, tokens = right(*args)
        return picks, tokens + 1

    monkeypatch.setattr(kernels, "plan_rows", wrong)


def _budget_below_topk(monkeypatch: Any) -> None:
    right = budget.make_rule

    def wrong(*args: Any) -> budget.Rule:
        return dataclasses.replace(right(*args), blocks=1)

    monkeypatch.setattr(budget, "make_rule", wrong)


MUTANTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "short stores are not sealed": (_seal(_long_stores_only), SUMMARY),
    "one layer is never sealed": (_seal(lambda s, layer, slots: slots if layer == 0 else slots[:0]), SUMMARY),
    "only the first page of a store is sealed": (_seal(_first_page_only), SUMMARY),
    "the next page is sealed": (_seal(_other_page), SUMMARY),
    "a page is sealed one token early": (_seal(lambda s, layer, slots: slots + 1), SUMMARY),
    "a page is sealed one token late": (_seal(lambda s, layer, slots: slots - 1), SUMMARY),
    "a reused page keeps its first summary": (_seal(_written_once), SUMMARY),
    "the coarse launch does not seal": (_coarse_does_not_seal, SUMMARY),
    "a decode step of stock DSA forgets the last layer": (_stock_decode_forgets_the_last_layer, SUMMARY),
    "an extend step of stock DSA seals no layer between": (_stock_extend_seals_its_last_layer_alone, SUMMARY),
    "a step with HISA seals only at its end": (_every_extend_seals_at_its_end, SUMMARY),
    "the last of several pages is not sealed": (_last_page_is_not_sealed, SUMMARY),
    "a load from the host is not resealed": (_load_does_not_reseal, SUMMARY),
    "a load from the host forgets its first page": (_load_forgets_the_first_page, SUMMARY),
    "a HiCache load is not resealed": (_host_load_does_not_reseal, SUMMARY),
    "a HiCache load reseals the first layer only": (_host_load(lambda slots, layer: (slots, 0)), SUMMARY),
    "a HiCache load forgets its last page": (_host_load(lambda slots, n: (slots[:-PAGE], n)), SUMMARY),
    "the tail is taken for one token shorter": (_pick(lengths=lambda n: n - 1), CANDIDATES),
    "the page after the row's last is a candidate": (_pick(lengths=lambda n: n + PAGE), CANDIDATES),
    "the sink is not kept": (_pick(sink_blocks=lambda n: 0), CANDIDATES),
    "the local window is not kept": (_pick(local_tokens=lambda n: 0), CANDIDATES),
    "candidate tokens are one too many": (_candidates_past_the_length, CANDIDATES),
    "the budget may be below the model's top-k": (_budget_below_topk, CANDIDATES),
}
"""What is wrong -> how it is put in, and the invariant that must find it."""
