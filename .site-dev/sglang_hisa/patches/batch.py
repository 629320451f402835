"""How long the prompts of an extend step are, of which its rows may be the end, and which are decode rows."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sglang_hisa.patches import runtime

SHARED = ("extend_seq_lens_cpu", "seq_lens_cpu", "req_pool_indices")
"""Fields by whose objects a runner's copy of a batch is recognised. Prefill graphs run on a batch of their
own, built field by field, without the ids of its requests (``PrefillCudaGraphRunner.load_batch``); the
contract checks that it takes the first of these as it is."""


@dataclass(frozen=True)
class _Step:
    """The newest batch that SGLang built. A step runs before the next one is built."""

    batch: weakref.ref[Any]
    prompts: tuple[int | None, ...]


_newest: _Step | None = None


def after_init_new(result: Any, cls: Any, batch: Any, *args: Any, **kwargs: Any) -> None:
    """Note the prompt of each request of the step that is about to run."""
    global _newest
    state = runtime.current()
    if state.on_forward is not None:
        state.on_forward()
    reqs = batch.reqs if result.forward_mode.is_extend_without_speculative() else None
    decoding = {id(req) for req in batch.decoding_reqs or ()}  # of a mixed step, or all of a converted one
    prompts = tuple(
        # A retracted request comes back with what it has generated as a part of its prompt.
        None if id(req) in decoding else len(req.origin_input_ids) + len(req.output_ids)
        for req in reqs or ()
    )
    _newest = _Step(weakref.ref(result), prompts)


def _built_as(forward_batch: Any, newest: Any) -> bool:
    """Whether ``forward_batch`` is ``newest`` or a copy that a runner made of it."""
    shared = (getattr(newest, field, None) for field in SHARED)
    return forward_batch is newest or any(
        value is not None and getattr(forward_batch, field, None) is value
        for field, value in zip(SHARED, shared)
    )


def prompts(forward_batch: Any, contexts: Sequence[int]) -> list[int | None] | None:
    """Tokens of each request's prompt, the chunks to come included; None in place of a decode row's.

    Under DP attention SGLang relabels a step as an extend while another rank prefills
    (``ForwardBatch.prepare_mlp_sync_batch``): rows of a decode or verify step keep the decode budget.

    Args:
        contexts: tokens that each request of ``forward_batch`` has at the end of the step.

    Returns:
        None where the rows belong to no request that SGLang scheduled: dummies of a capture or an idle rank.
    """
    newest = None if _newest is None else _newest.batch()
    if _newest is None or newest is None or not _built_as(forward_batch, newest):
        return None
    original = getattr(newest, "_original_forward_mode", None) or newest.forward_mode
    if original.is_idle():
        return None
    if not original.is_extend_without_speculative():
        return [None] * len(contexts)
    known = list(_newest.prompts)
    return [*known, *contexts[len(known) :]] if known else None  # then 0.5.23's padding of attention groups
