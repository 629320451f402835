"""SGLang plugin of the acceptance runs: what the rows of each extend step looked at, and what they chose.

Each rank appends one line a call of the prefill indexer to ``STEPS/RANK.jsonl``, and the positions that every
37th row chose to ``STEPS/RANK.npy``. Nothing is taken from HISA but each row's number of candidates.
"""

import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

PAGE, EVERY = 64, 37


def positions(slots, table, lengths):
    """Physical slots int32 ``[rows, k]`` -> ascending positions in the request, -1 first, by the rows' page
    tables int32 ``[rows, pages]``."""
    found = np.full(slots.shape, -1, dtype=np.int32)
    where = np.full(int(max(slots.max() // PAGE, table.max())) + 1, -1, dtype=np.int32)
    for row, (chosen, pages, length) in enumerate(zip(slots, table, lengths)):
        own = pages[: -(-int(length) // PAGE)]
        where[own] = np.arange(len(own))
        real = chosen[chosen >= 0]
        found[row, : len(real)] = where[real // PAGE] * PAGE + real % PAGE
    return np.sort(found, axis=1)


def register():
    if "STEPS" not in os.environ:
        return
    from sglang.srt.environ import envs
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from sglang_hisa import indexer

    choose, synchronise, apply = indexer.select, ForwardBatch.prepare_mlp_sync_batch, HookRegistry.apply_hooks
    last = {"plan": None, "mode": None}

    def select(queries, plan, *args, **kwargs):
        last["plan"] = plan
        return choose(queries, plan, *args, **kwargs)

    def synchronise_and_note(batch, runner):
        before = batch.forward_mode.name
        synchronise(batch, runner)
        last["mode"] = before if batch.forward_mode.name != before else None

    def around_ragged(original, self, dual, forward_batch, layer_id, q, weights, metadata, result=None):
        last["plan"] = None
        chosen = original(self, dual, forward_batch, layer_id, q, weights, metadata, result)
        lengths = metadata.get_seqlens_expanded()
        rows = lengths.shape[0]
        if not rows or (lengths.is_cuda and torch.cuda.is_current_stream_capturing()):
            return chosen
        plan = last["plan"]
        candidates = lengths if plan is None else plan.of_rows("candidates")
        line = {
            "layer": layer_id,
            "rows": rows,
            "relabelled": last["mode"],
            "in_graph": getattr(forward_batch, "rids", None) is None,
            "hisa": plan is not None,
            "candidates": int(candidates.sum()),
            "context": int(lengths.sum()),
            "most": int(candidates.max()),
        }
        sample = torch.arange(0, rows, EVERY, device=lengths.device)
        found = chosen[:rows][sample].cpu().numpy()
        if envs.SGLANG_DSA_FUSE_TOPK.get():
            table = metadata.get_page_table_64()[metadata.get_token_to_batch_idx()[sample].long()]
            found = positions(found, table.cpu().numpy(), lengths[sample].cpu().numpy())
        base = Path(os.environ["STEPS"]) / str(dist.get_rank())
        with base.with_suffix(".npy").open("ab") as choices, base.with_suffix(".jsonl").open("a") as lines:
            np.save(choices, np.sort(found, axis=1))
            lines.write(json.dumps(line) + "\n")
        return chosen

    def last_and_apply():
        target = "sglang.srt.layers.attention.dsa.dsa_indexer.Indexer._get_topk_ragged"
        HookRegistry.register(target, around_ragged, HookType.AROUND)
        apply()

    indexer.select = select
    ForwardBatch.prepare_mlp_sync_batch = synchronise_and_note
    HookRegistry.apply_hooks = staticmethod(last_and_apply)
