"""Adapters on the KV pool: allocate and count the summaries, reseal what others moved."""

from __future__ import annotations

import logging
from typing import Any

import torch

from sglang_hisa import PAGE
from sglang_hisa.config import interpreting_triton
from sglang_hisa.kernels.layout import ROW_BYTES, SUMMARY_BYTES
from sglang_hisa.patches import runtime
from sglang_hisa.patches.behaviours import DRAFT_LOADS, TOKEN_MOVES
from sglang_hisa.patches.plugin import refuse
from sglang_hisa.summaries import PageSummaries, pages_of
from sglang_hisa.transfer import to_device

logger = logging.getLogger(__name__)

_INTERPRET = "export TRITON_INTERPRET=1"


def _backend(state: runtime.Runtime, device: torch.device) -> str:
    """Triton on a GPU and torch on a CPU, unless the configuration says otherwise."""
    asked = state.config.kernels
    if asked == "auto":
        asked = "triton" if device.type == "cuda" else "torch"
    if asked == "triton" and device.type == "cpu" and not interpreting_triton():
        refuse(
            "these settings do not fit a CPU", ['"kernels": "triton" needs Triton\'s interpreter'], _INTERPRET
        )
    return asked


def after_init(result: None, self: Any, *args: Any, **kwargs: Any) -> None:
    """Allocate one summary a page and layer, as many rows as the index-K buffer has."""
    state = runtime.current()
    buffers = self.index_k_with_scale_buffer
    state.backend = _backend(state, buffers[0].device)
    state.rows.allocate(buffers[0].device, state.backend)
    draft = state.speculative and state.summary_bytes > 0  # SGLang allocates the target's pool first
    self._hisa_summaries = PageSummaries(buffers, self.start_layer, state.backend, draft=draft)
    state.pools.add(self._hisa_summaries)
    state.summary_bytes += self._hisa_summaries.nbytes
    if draft:
        state.draft_layers += len(buffers)
    logger.info(
        "sglang-hisa: page summaries of %d %slayers, %d pages, %.3f GB",
        len(buffers),
        "draft " if draft else "",
        buffers[0].shape[0],
        self._hisa_summaries.nbytes / (1 << 30),
    )


def after_clear(result: None, self: Any) -> None:
    """The buffers are gone: so are their summaries."""
    self._hisa_summaries = None


def after_size(result: int, self: Any) -> int:
    """Called once inside ``__init__`` (its own memory log), before the summaries exist."""
    summaries = getattr(self, "_hisa_summaries", None)
    return result if summaries is None else result + summaries.nbytes


def _moved(
    summaries: PageSummaries, mover: str, pages: torch.Tensor, layer: int | None = None, count: bool = True
) -> None:
    """``mover`` wrote the index keys of ``pages``: reseal them, tell the canary, count them.

    ``layer``: number in this pool of the one layer that was written; None: all were. Movers that go layer by
    layer are told and counted at the first layer that has index keys, so that a page counts once.
    """
    if layer is None:
        summaries.reseal(pages)
    else:
        summaries.reseal(pages, summaries.start_layer + layer)
    if layer is None or layer == summaries.first_stored:
        state = runtime.current()
        state.canary.moved(summaries, mover, pages)
        state.rebuilt[mover] += pages.numel() if count else 0


def _left_behind(summaries: PageSummaries, mover: str, pages: torch.Tensor) -> None:
    """``mover`` brought ``pages`` of the target alone: the draft model's keep the bytes of others.

    Its keys are wrong then, in stock SGLang, too: fewer drafts are accepted. The summaries must still be
    those of the bytes.
    """
    for other in runtime.current().pools:
        if other.draft and not summaries.draft:
            _moved(other, mover, pages, count=False)


def after_load_cpu_copy(
    result: None, self: Any, kv_cache_cpu_dict: Any, indices: Any, *a: Any, **k: Any
) -> None:
    """Index keys of ``indices`` came back from the host."""
    pages = pages_of(indices)
    _moved(self._hisa_summaries, "load_cpu_copy", pages)
    _left_behind(self._hisa_summaries, "load_cpu_copy", pages)


def before_loading(self: Any) -> None:
    """HiCache is about to load pages from the host, ordered after the current stream.

    A request that just left freed pages that the step in flight still stores to, and the scheduler's stream
    waits only until that step has read its inputs: the stray store may come after the load and leave a wrong
    key in a cached page. Newer SGLangs have a fence of their own (``load_fence_stream``).
    """
    stream = runtime.current().forward_stream
    if stream is not None:
        torch.cuda.current_stream().wait_stream(stream)


def after_host_load(
    result: None,
    self: Any,
    device_pool: Any,
    host_indices: torch.Tensor,
    device_indices: torch.Tensor,
    layer_id: int,
    io_backend: str,
    *,
    is_draft: bool = False,
) -> None:
    """HiCache brought one layer of whole pages from the host; ``layer_id`` counts from the pool's first.

    Runs on SGLang's load stream, before it records the event of this layer that readers of the layer's index
    keys wait for: no host synchronisation, or loading would no longer run beside the forward.
    """
    pages = device_indices[::PAGE] // PAGE
    device = device_pool.index_k_with_scale_buffer[0].device
    if pages.device != device:  # the "direct" backend keeps them on the host
        pages = to_device(pages, device)
    summaries, layer = device_pool._hisa_summaries, 0 if is_draft else layer_id
    _moved(summaries, "hicache_load", pages, layer, count=not is_draft)
    if DRAFT_LOADS not in runtime.current().behaviours and layer == summaries.first_stored:
        _left_behind(summaries, "hicache_load", pages)


def after_prebuilt(result: None, self: Any) -> None:
    """A prefill server wrote the prompts of this batch into the pool; its first forward is a decode step.

    Runs on the scheduler's stream, which that forward waits for. A request's slots lie in ``out_cache_loc``
    one after the other, so every 64th names each page that they fill. Decode seals the last page again, once
    it is full.
    """
    parts = [slots[::PAGE] for slots in self.out_cache_loc.split(self.extend_lens)]
    pages = torch.cat(parts) // PAGE
    for number, summaries in enumerate(runtime.current().pools):  # a draft's pool has the same pages
        _moved(summaries, "pd_receive", pages, count=not number)


def around_move(original: Any, self: Any, tgt_loc: torch.Tensor, src_loc: torch.Tensor) -> None:
    """Token moves between pages."""
    state = runtime.current()
    if tgt_loc.numel() and TOKEN_MOVES not in state.behaviours:
        raise RuntimeError(
            f"sglang-hisa: SGLang {state.sglang} moves index keys by token id on a page-indexed buffer "
            "(sglang #31060), so the cache would be corrupt; use --speculative-eagle-topk 1"
        )
    original(self, tgt_loc, src_loc)
    if tgt_loc.numel():
        _moved(self._hisa_summaries, "move_kv_cache", pages_of(tgt_loc))


def after_cell_size(result: int, self: Any, kvc: Any, num_layers: int) -> int:
    """Bytes of one token in all layers, of an SGLang that sizes index keys among the rest."""
    from sglang.srt.configs.model_config import is_deepseek_dsa

    if not (kvc.use_mla_backend and is_deepseek_dsa(kvc.model_config.hf_config)):
        return result
    return int(result) + -(-SUMMARY_BYTES * num_layers // PAGE)


def after_indexer_cell_size(result: int, self: Any, **kwargs: Any) -> int:
    """Bytes of one token's index keys in all layers that store them."""
    return -(-int(result) * (ROW_BYTES + SUMMARY_BYTES) // ROW_BYTES)
