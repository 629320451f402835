"""SGLang's own kernels behind :class:`sglang_hisa.stock_kernels.StockKernels`."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from sglang_hisa import PAGE, gpu
from sglang_hisa.schedule import Device


def _dsa() -> Any:
    from sglang.srt.layers.attention.dsa import dsa_indexer

    return dsa_indexer


def _resolved(name: str, resolver: str) -> Any:
    """A function of DeepGEMM as this SGLang finds it: by its resolver, or by its name."""
    dsa = _dsa()
    return getattr(dsa, resolver)() if hasattr(dsa, resolver) else getattr(dsa.deep_gemm, name)


@functools.cache  # the signature is read once, not in each layer
def _cleans(function: Callable[..., Any]) -> dict[str, bool]:
    """``clean_logits=False`` for the DeepGEMMs that have it (all to sgl-deep-gemm 0.2.4), nothing for others.

    A builtin that tells no signature is one of the former. Later ones never clean.
    """
    try:
        names = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {"clean_logits": False}
    forwards = any(parameter.kind is parameter.VAR_KEYWORD for parameter in names.values())
    return {"clean_logits": False} if forwards or "clean_logits" in names else {}


def paged_logits_fn() -> Callable[..., Any]:
    """DeepGEMM's token scores through a page table: ``fp8_paged_mqa_logits``, or what took its place.

    Called with the seven arguments from ``q`` to ``max_context_len``. None past a row is written.
    """
    function = _resolved("fp8_paged_mqa_logits", "resolve_fp8_paged_mqa_logits_fn")
    return functools.partial(function, **_cleans(function))


def flat_logits_fn() -> Callable[..., Any]:
    """DeepGEMM's token scores over gathered keys: ``fp8_mqa_logits``, or what took its place.

    Called with the five arguments from ``q`` to the ends, and ``max_seqlen_k`` (0: a column for each key),
    which newer DeepGEMMs want.
    """
    function = _resolved("fp8_mqa_logits", "resolve_fp8_mqa_logits_fn")
    return functools.partial(function, **_cleans(function))


def schedule_fn() -> Callable[..., Any]:
    """DeepGEMM's split of paged scores among multiprocessors."""
    function: Callable[..., Any] = _resolved(
        "get_paged_mqa_logits_metadata", "resolve_paged_mqa_logits_metadata_fn"
    )
    return function


def _processors(indexer: Any) -> int:
    """Multiprocessors that DeepGEMM's next kernel will use.

    Not SGLang's ``resolve_num_sms``, which keeps its first answer. Without DeepGEMM, ``deep_gemm`` is an
    ``ImportError`` there.
    """
    count = getattr(getattr(_dsa(), "deep_gemm", None), "get_num_sms", None)
    return int(count()) if count else int(indexer.sm_count)


def topk_fn() -> Any:
    """The fused top-k, by its newer name or its older one."""
    from sglang.kernels.ops.attention.dsv4 import topk

    return getattr(topk, "topk_transform_paged_v2", None) or topk.topk_transform_512_v2


class SglangKernels:
    """Stock kernels as the indexers of a model call them in one step: its layers share them."""

    def __init__(self, indexer: Any, metadata: Any, *, prefill: bool = False) -> None:
        """``prefill``: call DeepGEMM as ``_get_topk_ragged`` does, within ``_with_real_sm_count``: a receive
        that a pipeline stage has begun holds a multiprocessor. ``_get_topk_paged`` uses them all."""
        self._indexer = indexer
        self._prefill = prefill
        self._backend = metadata.topk_backend
        self.index_topk: int = indexer.index_topk
        self.init_tokens: int = indexer.num_init_tokens
        self.local_tokens: int = indexer.num_local_tokens
        self.table_topk: bool = self._backend.should_use_topk_v2() and self.index_topk <= 2048

    def _reserved(self) -> contextlib.AbstractContextManager[Any]:
        """Within it DeepGEMM uses the multiprocessors that this phase may."""
        return self._indexer._with_real_sm_count() if self._prefill else contextlib.nullcontext()

    @functools.cached_property
    def device(self) -> Device:
        found = gpu.find()
        with self._reserved():
            count = _processors(self._indexer) if self._prefill else self._indexer.sm_count
        return Device(count, found.capability if found else None)

    def schedule(self, lengths_2d: torch.Tensor) -> Any:
        if not lengths_2d.is_cuda:
            return None
        with self._reserved():
            return schedule_fn()(lengths_2d, PAGE, self.device.processors)

    def paged_logits(
        self,
        q: torch.Tensor,
        index_k: torch.Tensor,
        weights: torch.Tensor,
        lengths_2d: torch.Tensor,
        table: torch.Tensor,
        schedule: Any,
        max_length: int,
    ) -> torch.Tensor:
        pages = index_k.view(index_k.shape[0], PAGE, 1, -1)
        grouped = q.unflatten(0, lengths_2d.shape)
        with self._reserved():
            logits = paged_logits_fn()(grouped, pages, weights, lengths_2d, table, schedule, max_length)
        if logits.shape[0] <= 1:
            # DLPack sets the stride of a single row to 1, the top-k kernel wants a multiple of 4
            # (SGLang kernels/ops/attention/dsa/paged_mqa_logits.py, _restore_row_stride).
            logits = logits.as_strided(logits.shape, ((logits.shape[1] + 3) // 4 * 4, 1))
        return logits

    def flat_logits(
        self,
        q: torch.Tensor,
        keys: torch.Tensor,
        scales: torch.Tensor,
        weights: torch.Tensor,
        starts: torch.Tensor,
        ends: torch.Tensor,
        max_columns: int,
    ) -> torch.Tensor:
        with self._reserved():
            return flat_logits_fn()(q, (keys, scales), weights, starts, ends, max_seqlen_k=max_columns)

    def boost(self, logits: torch.Tensor, lengths: torch.Tensor) -> None:
        # Init tokens lead and local tokens end a candidate row as they do the whole row, because the
        # sink and local blocks that hold them are always kept, and stand there in ascending order.
        self._indexer._mask_init_and_local_tokens(logits, lengths)

    def topk_plan(self, lengths: torch.Tensor) -> Any:
        from sglang.kernels.ops.attention.dsv4.topk import plan_topk_v2

        return plan_topk_v2(lengths)

    def topk_slots(
        self, logits: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor, plan: Any
    ) -> torch.Tensor:
        # The kernel writes every element, -1 included, so the output needs no fill.
        out = torch.empty((logits.shape[0], self.index_topk), dtype=torch.int32, device=logits.device)
        topk_fn()(logits, lengths, table, out, PAGE, plan)
        return out

    def topk_positions(self, logits: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return self._backend.topk_func(logits, lengths, self.index_topk)
