"""A rehearsal of prefill before the server is ready (:mod:`sglang_hisa.rehearsal`)."""

from __future__ import annotations

import dataclasses
import logging
import time
from types import SimpleNamespace
from typing import Any

import torch

from sglang_hisa import PAGE
from sglang_hisa.config import Config, export
from sglang_hisa.indexer import Output
from sglang_hisa.patches import indexer as hooks
from sglang_hisa.patches import runtime
from sglang_hisa.patches.plugin import refuse
from sglang_hisa.patches.stock_kernels import SglangKernels
from sglang_hisa.plan import Setup
from sglang_hisa.rehearsal import rehearse
from sglang_hisa.schedule import differences
from sglang_hisa.stock_kernels import StockKernels

logger = logging.getLogger(__name__)


def check_split(config: Config, stock: StockKernels, device: torch.device) -> None:
    """Refuse to serve (:func:`refuse`) where DeepGEMM splits prefill's work differently from HISA."""
    found = differences(stock, device)
    if found:
        asked = export(dataclasses.replace(config, refine="triton"))
        refuse(
            "this DeepGEMM splits the work of its paged logits differently from HISA",
            found,
            f"install the DeepGEMM that SGLang pins, or score with HISA's own kernel: {asked}",
        )


def rehearse_prefill(state: runtime.Runtime, runner: Any) -> None:
    """Compile what the prompts of this server (its ``ModelRunner``) will need; nothing on a CPU."""
    from sglang.srt.layers.attention.dsa.dsa_indexer import Indexer
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    summaries = next((pool for pool in state.pools if not pool.draft), None)
    served = summaries.served(state.layers) if summaries else []
    layers = (module for module in runner.model.modules() if isinstance(module, Indexer))
    one = next((layer for layer in layers if layer.layer_id in served), None)
    if summaries is None or one is None or not torch.cuda.is_available() or not state.config.prefill.active:
        return
    attention = getattr(runner.attn_backend, "primary", runner.attn_backend)  # of two-batch overlap
    metadata = SimpleNamespace(
        topk_backend=attention.dsa_topk_backend,
        topk_transform_method=attention.get_topk_transform_method(ForwardMode.EXTEND),
        force_unfused_topk=not attention.use_fused_topk,
    )

    def output_of(offsets: torch.Tensor) -> Output:
        metadata.attn_metadata = SimpleNamespace(topk_indices_offset=offsets)
        return hooks.output_of(metadata, offsets.shape[0])

    stock, layer = SglangKernels(one, metadata, prefill=True), summaries.layer(one.layer_id)
    bound = min(runner.model_config.context_len, layer.keys.shape[0] * PAGE)
    q = layer.keys.new_empty((0, one.n_heads, layer.keys.shape[1]))
    refine = hooks.refine_of(state, q)
    if refine == "deepgemm":
        check_split(state.config, stock, q.device)
    began = time.monotonic()
    logger.info("sglang-hisa: making kernels ready for prompts of up to %d tokens", bound)
    steps = rehearse(
        hooks.rule_of(state, "prefill", stock),
        bound,
        layer,
        heads=one.n_heads,
        setup=Setup(state.config, stock, summaries.backend),
        refine=refine,
        output_of=output_of,
    )
    torch.cuda.synchronize()
    logger.info("sglang-hisa: %d prefill steps rehearsed in %.1f s", steps, time.monotonic() - began)
