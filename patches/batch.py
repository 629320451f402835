"""How long the prompts of an extend step are, of which its rows may be the end, and which are decode rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sglang_hisa.patches import runtime

_prompts: dict[str, int | None] = {}


def after_init_new(result: Any, cls: Any, batch: Any, *args: Any, **kwargs: Any) -> None:
    """Note the prompt of each request of the step that is about to run.

    Kept by request id and not on the batch, since SGLang's runners copy the batch field by field.
    Only the newest step is kept: a step runs before the next one is built.
    """
    state = runtime.current()
    if state.on_forward is not None:
        state.on_forward()
    if not result.forward_mode.is_extend_without_speculative() or not batch.reqs:
        return
    _prompts.clear()
    lengths = result.extend_seq_lens_cpu or [0] * len(batch.reqs)
    for req, length in zip(batch.reqs, lengths):
        decode = req is not batch.chunked_req and length == 1 and len(req.output_ids) > 0
        # A retracted request comes back with what it has generated as a part of its prompt.
        _prompts[req.rid] = None if decode else len(req.origin_input_ids) + len(req.output_ids)


def prompts(forward_batch: Any, contexts: Sequence[int]) -> list[int | None]:
    """Tokens of each request's prompt, the chunks to come included; None for a decode row.

    Where it is not known the prompt ends with the step, at which each request has ``contexts`` tokens.
    Under DP attention SGLang relabels a decode step as an extend while another rank prefills in a graph
    (``ForwardBatch.prepare_mlp_sync_batch``): its rows keep the decode budget.
    """
    relabelled = getattr(forward_batch, "_original_forward_mode", None)
    if relabelled is not None and relabelled.is_decode():
        return [None] * len(contexts)
    rids = getattr(forward_batch, "rids", None) or []
    if len(rids) != len(contexts):
        return list(contexts)
    return [_prompts.get(rid, context) for rid, context in zip(rids, contexts)]
