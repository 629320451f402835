"""A second CUDA graph of each decode size, with stock DSA, for steps that pruning would not make faster.

A row that fits its budget keeps every page, so both graphs choose the same tokens for it; the stock one has
no filter to launch. Rows little beyond a large budget are faster there too (:meth:`Rule.pays`). SGLang keys
its graphs by a label (it has one for batches without LoRA), which is all this needs.

Not with speculative decoding: the lengths on the host are there those before the draft tokens, if SGLang
keeps them at all, and the draft models' graphs have labels of their own.
"""

from __future__ import annotations

from typing import Any

from sglang_hisa.patches import runtime

LABEL = "hisa-stock"


def _with(label: str | None) -> str:
    return f"{label}-{LABEL}" if label else LABEL


def _captures_both(state: runtime.Runtime) -> bool:
    """Whether each size is captured twice. Where decode is left to stock DSA the first graph is that."""
    return state.config.stock_decode_graphs and state.config.decode.active and not state.speculative


def around_capture(
    original: Any,
    self: Any,
    size: int,
    forward: Any,
    stream_idx: int | None = None,
    variant_label: str | None = None,
    *args: Any,
    **kwargs: Any,
) -> None:
    """Capture ``size`` with HISA as ever, then with the stock indexer."""
    original(self, size, forward, stream_idx, variant_label, *args, **kwargs)
    state = runtime.current()
    if not _captures_both(state):
        return
    state.capturing_stock = True
    try:
        original(self, size, forward, stream_idx, _with(variant_label), *args, **kwargs)
    finally:
        state.capturing_stock = False


def around_variant(original: Any, self: Any, forward_batch: Any) -> str | None:
    """Label of the graph that serves this batch, by its lengths on the host: nothing waits for the GPU."""
    label: str | None = original(self, forward_batch)
    state = runtime.current()
    rule, lengths = state.decode_rule, getattr(forward_batch, "seq_lens_cpu", None)
    if not _captures_both(state) or rule is None or lengths is None or not len(lengths):
        return label
    return label if rule.pays(lengths.tolist()) else _with(label)
