"""SGLang plugin of the tests: each rank keeps a digest of what its indexers chose in each call, before any
broadcast, and counts broadcasts and the batches that DP attention left empty or padded.

With RANKS_DIFFER in the environment each rank claims to have a setting of its own instead.
"""

import hashlib
import json
import os
from pathlib import Path

import torch.distributed as dist


def digest(chosen):
    """Of the tokens of each row, int32 ``[rows, index_topk]``, in whatever order: a fused top-k kernel writes
    them as its threads come."""
    rows = chosen.sort(dim=-1).values.cpu().numpy()
    return hashlib.sha256(rows.tobytes()).hexdigest()[:16]


def register():
    from sglang.srt.layers.attention.dsa import dsa_indexer
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

    from sglang_hisa import indexer
    from sglang_hisa.patches import agreement

    choose, facts = indexer.select, agreement.facts
    broadcast = dsa_indexer._broadcast_indexer_topk_from_rank0_impl
    synchronise = ForwardBatch.prepare_mlp_sync_batch
    digests = []
    counts = {"calls": 0, "broadcasts": 0, "idle": 0, "padded": 0}

    def tell():
        seen = {**counts, "digests": digests}
        (Path(os.environ["RANKS"]) / f"{dist.get_rank()}.json").write_text(json.dumps(seen))

    def select(*args, **kwargs):
        chosen = choose(*args, **kwargs)
        digests.append(digest(chosen))
        counts["calls"] += 1
        tell()
        return chosen

    def broadcast_and_count(chosen):
        counts["broadcasts"] += 1
        broadcast(chosen)

    def synchronise_and_count(batch, runner):
        real, idle = batch.seq_lens.shape[0], batch.forward_mode.is_idle()
        synchronise(batch, runner)
        counts["idle"] += idle
        counts["padded"] += batch.seq_lens.shape[0] > real > 0
        tell()

    indexer.select = select
    dsa_indexer._broadcast_indexer_topk_from_rank0_impl = broadcast_and_count
    ForwardBatch.prepare_mlp_sync_batch = synchronise_and_count
    if "RANKS_DIFFER" in os.environ:
        agreement.facts = lambda state: {**facts(state), "own setting": str(dist.get_rank())}
