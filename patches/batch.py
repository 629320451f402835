"""Which rows of an extend step end their prompt, which are in its middle, which are decode rows."""

from __future__ import annotations

from typing import Any

from sglang_hisa.patches import runtime

DECODE, MIDDLE, LAST = "decode", "middle", "last"

_phases: dict[str, str] = {}


def after_init_new(result: Any, cls: Any, batch: Any, *args: Any, **kwargs: Any) -> None:
    """Note the phase of each request of the step that is about to run.

    Kept by request id and not on the batch, since SGLang's runners copy the batch field by field.
    Only the newest step is kept: a step runs before the next one is built.
    """
    state = runtime.current()
    if state.on_forward is not None:
        state.on_forward()
    if not result.forward_mode.is_extend_without_speculative() or not batch.reqs:
        return
    _phases.clear()
    lengths = result.extend_seq_lens_cpu or [0] * len(batch.reqs)
    for req, length in zip(batch.reqs, lengths):
        if req is batch.chunked_req:
            phase = MIDDLE
        elif length == 1 and len(req.output_ids) > 0:
            phase = DECODE
        else:
            phase = LAST
        _phases[req.rid] = phase


def phases(forward_batch: Any, count: int) -> list[str]:
    """Phase of each of the ``count`` requests of an extend step; ``LAST`` where it is not known.

    Under DP attention SGLang relabels a decode step as an extend while another rank prefills in a graph
    (``ForwardBatch.prepare_mlp_sync_batch``): its rows keep the decode budget.
    """
    relabelled = getattr(forward_batch, "_original_forward_mode", None)
    if relabelled is not None and relabelled.is_decode():
        return [DECODE] * count
    rids = getattr(forward_batch, "rids", None) or []
    if len(rids) != count:
        return [LAST] * count
    return [_phases.get(rid, LAST) for rid in rids]
