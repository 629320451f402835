"""Adapter on ``ModelRunner.forward``: the canary looks after each forward, on its stream."""

from __future__ import annotations

from typing import Any

import torch

from sglang_hisa.patches import runtime


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


def around_forward(original: Any, self: Any, forward_batch: Any, *args: Any, **kwargs: Any) -> Any:
    """Every eager forward and every replay of a decode graph comes through here.

    Of the captures only that of draft steps does, one graph of several forwards: nothing is compared in it.
    """
    state = runtime.current()
    summaries: Any = getattr(self.token_to_kv_pool, "_hisa_summaries", None)
    layers = [] if summaries is None else summaries.served(state.layers)
    if not layers or forward_batch.seq_lens.shape[0] == 0 or _capturing(forward_batch.seq_lens.device):
        return original(self, forward_batch, *args, **kwargs)
    slots_of = self.req_to_token_pool.req_to_token
    on_host = forward_batch.seq_lens_cpu
    longest = slots_of.shape[1] if on_host is None else int(on_host.max())
    kind, drafts = forward_batch.forward_mode.name, 0
    if kind == "TARGET_VERIFY":  # its lengths are those before the tokens that it verifies
        drafts = forward_batch.spec_info.draft_token_num
    watched = state.canary.begin(
        summaries,
        slots_of,
        forward_batch.req_pool_indices,
        forward_batch.seq_lens + drafts,
        min(longest + drafts, slots_of.shape[1]),
        ("draft model's " if summaries.draft else "") + kind.lower(),
        forward_batch.rids or (),
    )
    # As SGLang built them: DP attention pads them inside the forward, and the padding is nobody's.
    stored, counts = forward_batch.out_cache_loc, forward_batch.extend_seq_lens
    result = original(self, forward_batch, *args, **kwargs)
    state.canary.end(summaries, layers, watched, stored, counts)
    return result
