"""SGLang plugin of the tests: recompute every selection of the server from the pool's own pages.

Runs inside the scheduler, outermost on the indexer's two selection methods, and shares no code with HISA
but the rebuild of summaries (whose bits it compares). Settings come from ORACLE (JSON): budget in tokens
(0: everything), block, sink and local tokens, prefill rows that choose together (group), the share of the
heads that score tokens of pruned prefill rows (heads), and where to write the counts.
"""

import json
import os
from enum import StrEnum

import torch
from hisa_rebuild import stale_pages

PAGE, DIM = 64, 128
SET = json.loads(os.environ.get("ORACLE", "{}"))
COUNTS = {"rows": 0, "pruned": 0, "largest_step": 0, "pages": 0, "stale": 0, "prefill_steps": 0, "wrong": []}
COUNTS |= {"layers": [], "heads": [], "fused": [], "pools": []}  # distinct values seen, ascending
COUNTS |= {"ragged": 0, "modes": {}, "completed": 0}  # rows by form and mode; pages that a store completed
COUNTS |= {"pruned_prefill": {}}  # rows of extend steps, by the layers of their pool


def page_keys(buffer, pages):
    raw = buffer[pages.long()]
    keys = raw[:, : PAGE * DIM].contiguous().view(torch.float8_e4m3fn).double().view(-1, PAGE, DIM)
    # The product is rounded to fp32, as every implementation of the score and of the summary has it.
    scales = raw[:, PAGE * DIM :].contiguous().view(torch.float32)
    return (keys.float() * scales[:, :, None]).double()


def candidate_blocks(summary_scores, length, budget):
    """(sure, possible) bool masks over the row's blocks; they differ where scores tie up to rounding."""
    block = SET["block"]
    count = -(-length // block)
    keep = max(-(-budget // block), -(-SET["topk"] // block) + 1)
    local = SET["local"] + SET["group"] - 1  # of any row, so that it is that of all rows of a group
    keep = max(keep, -(-SET["sink"] // block) + -(-local // block) + 1)
    everything = torch.ones(count, dtype=torch.bool)
    if not budget or keep >= count:
        return everything, everything, False
    earlier = count - 1
    values = summary_scores[:earlier].clone()
    index = torch.arange(earlier)
    forced = (index < max(1, -(-SET["sink"] // block))) | (index >= max(length - local, 0) // block)
    values[forced] = float("inf")
    cut = values.sort(descending=True).values[keep - 2]
    slack = 1e-3 * float(values[~forced].abs().max())
    own = torch.ones(1, dtype=torch.bool)
    sure = torch.cat((values > cut + slack, own))
    return sure, torch.cat((values >= cut - slack, own)), True


def check_row(row, values, few_values, summary_scores, length, positions, budget, bound):
    """``bound``: length of the last row that chose with it; both end in the same block. ``few_values``: token
    scores of the heads that score a pruned row."""
    sure, possible, pruned = candidate_blocks(summary_scores, bound, budget)
    COUNTS["pruned"] += pruned
    values = few_values if pruned else values
    chosen = positions[positions >= 0].long()
    if chosen.unique().numel() != chosen.numel() or (chosen >= length).any():
        return f"row {row}: doubled token or token beyond length {length}"
    token_block = torch.arange(length) // SET["block"]
    if not possible[chosen // SET["block"]].all():
        return f"row {row}: token of a block that is no candidate (length {length})"
    most = min(SET["topk"], int(possible[token_block].sum()))
    if not (min(SET["topk"], int(sure[token_block].sum())) <= chosen.numel() <= most):
        return f"row {row}: {chosen.numel()} tokens chosen (length {length})"
    left = sure[token_block]
    left[chosen] = False
    values = values[:length]
    if left.any() and values[left].max() > values[chosen].min() + 1e-3 * values.abs().max():
        return f"row {row}: a better candidate was left out (length {length})"
    return None


def summaries_of(keys):
    """Page summaries by the rules of docs/design.md, dequantised: elements cut to integers of 23 bits
    relative to the page's largest, summed, and quantised to fp8 as the index keys are."""
    keys = keys.float()
    power = torch.frexp(keys.abs().amax(dim=(1, 2))).exponent - 1
    whole = torch.ldexp(keys, (22 - power)[:, None, None]).trunc().long()
    total = whole.sum(dim=1)
    mean = torch.ldexp(total.float(), (power - 28)[:, None])
    scale = mean.abs().amax(dim=1, keepdim=True).clamp_min(1e-4) * (1 / 448)
    return (mean / scale).to(torch.float8_e4m3fn).double() * scale.double()


def summed(blocks, lengths, group):
    """Block scores of a group's rows added up. Where rows are missing at its ends, the first or the last one
    stands for them, too."""
    first, last = int(lengths.argmin()), int(lengths.argmax())
    lead = (int(lengths[first]) - 1) % group
    trail = group - 1 - (int(lengths[last]) - 1) % group
    return blocks.sum(dim=0) + lead * blocks[first] + trail * blocks[last]


def scores_of_request(buffer, pages, longest, q, weights, share):
    """(token scores, those of the ``share`` of heads of a row's largest weights, block summary scores) of a
    request's rows, float64 ``[rows, tokens or blocks]``."""
    keys = page_keys(buffer, pages[: -(-longest // PAGE)])
    mean = summaries_of(keys)
    per_block = SET["block"] // PAGE
    whole = mean.shape[0] // per_block
    blocks = mean[: whole * per_block].view(whole, per_block, DIM).mean(dim=1)

    def score(against, of):
        dots = torch.relu(torch.einsum("nd,rhd->rhn", against, q.double()))
        return torch.einsum("rhn,rh->rn", dots, of.double())

    kept = weights.abs().topk(max(1, round(share * weights.shape[1])), dim=1).indices
    few = torch.zeros_like(weights).scatter_(1, kept, weights.gather(1, kept))
    tokens = keys.view(-1, DIM)
    return score(tokens, weights), score(tokens, few), score(blocks, weights)


def get_pool():
    from sglang.srt.layers.attention.dsa.dsa_indexer import get_token_to_kv_pool

    return get_token_to_kv_pool()


def write():
    rank = torch.distributed.get_rank()
    name = SET["out"] + (f".{rank}" if rank else "")
    with open(name + ".new", "w") as out:
        json.dump(COUNTS, out)
    os.replace(name + ".new", name)


def verify(
    indexer, forward_batch, layer_id, q, weights, metadata, result, lengths, owner, budgets, group=1, share=1
):
    from sglang.srt.environ import envs
    from sglang.srt.layers.attention.dsa.dsa_topk_backend import TopkTransformMethod

    ragged = metadata.topk_transform_method == TopkTransformMethod.RAGGED
    first = 0  # of the request's tokens, all requests one after the other (RAGGED)
    pool = get_pool()
    buffer = pool.get_index_k_with_scale_buffer(layer_id=layer_id)
    table = metadata.get_page_table_64()
    weights = weights.squeeze(-1)
    rows = lengths.shape[0]
    COUNTS["largest_step"] = max(COUNTS["largest_step"], rows)
    seen = {"layers": layer_id, "heads": q.shape[1], "fused": indexer.use_dsa_indexer_fusion}
    seen["pools"] = len(pool.index_k_with_scale_buffer)  # their layers: the target's, a draft model's
    for name, value in seen.items():
        COUNTS[name] = sorted({*COUNTS[name], value})
    for request in torch.unique(owner[:rows]).tolist():
        mine = torch.nonzero(owner[:rows] == request).flatten()
        pages = table[request]
        longest = int(lengths[mine].max())
        found = scores_of_request(buffer, pages, longest, q[mine], weights[mine], share)
        tokens, few, blocks = found
        where = torch.full((buffer.shape[0],), -1)
        where[pages[: -(-longest // PAGE)].long()] = torch.arange(-(-longest // PAGE))
        together = (lengths[mine] - 1) // group  # rows that chose by the sum of their scores
        for at, row in enumerate(mine.tolist()):
            length, positions = int(lengths[row]), result[row]
            if envs.SGLANG_DSA_FUSE_TOPK.get():  # slots: back to positions through the row's own pages
                slots = positions[positions >= 0].long()
                COUNTS["ragged"] += ragged
                positions = slots - first if ragged else where[slots // PAGE] * PAGE + slots % PAGE
                if (positions < 0).any():
                    COUNTS["wrong"].append(f"layer {layer_id} row {row}: a slot of another request")
                    continue
            members = together == together[at]
            chose = (summed(blocks[members], lengths[mine][members], group), length, positions, budgets[row])
            problem = check_row(row, tokens[at], few[at], *chose, int(lengths[mine][members].max()))
            COUNTS["rows"] += 1
            if problem:
                COUNTS["wrong"].append(f"layer {layer_id} {problem}")
        first += longest
    summaries = getattr(pool, "_hisa_summaries", None)
    if summaries is not None:
        complete = [table[int(o)][: int(n) // PAGE] for o, n in zip(owner, lengths)]
        pages = torch.unique(torch.cat(complete))
        stored = forward_batch.out_cache_loc.long()
        done = stored[stored % PAGE == PAGE - 1] // PAGE  # whatever the rows may see of them
        COUNTS["completed"] += done.numel()
        pages = torch.unique(torch.cat((pages, done)))
        extend = forward_batch.forward_mode.is_extend_without_speculative()
        stock = isinstance(forward_batch._hisa_forward.step, StrEnum)  # the reason for it
        check_summaries(summaries, layer_id, pages, reads=not (extend and stock))
    write()


WAITING = []
"""Layers and pages of the extend step under way that are checked with its last layer."""


def check_summaries(summaries, layer_id, pages, reads):
    """Of a layer's pages after its choice. An extend step left to stock DSA reads none: of its later layers
    they need be there only after the last one's store."""
    from sglang_hisa.patches import runtime

    served = summaries.served(runtime.current().layers)
    WAITING.append((summaries, layer_id, pages))
    if reads or summaries.draft or layer_id in (served[0], served[-1]):
        for pool, layer, of_layer in WAITING:
            COUNTS["pages"] += of_layer.numel()
            COUNTS["stale"] += stale_pages(pool, layer, of_layer).numel()
        WAITING.clear()


def around_paged(original, self, forward_batch, layer_id, q_fp8, weights, metadata):
    result = original(self, forward_batch, layer_id, q_fp8, weights, metadata)
    rows = sum(metadata.get_dsa_extend_len_cpu())
    lengths = metadata.get_seqlens_expanded()[:rows]
    budgets = [SET["decode"]] * rows
    mode = forward_batch.forward_mode
    COUNTS["modes"][mode.name] = COUNTS["modes"].get(mode.name, 0) + rows
    positions = forward_batch.positions[:rows]
    real = positions > 0  # DP attention pads with position 0, which no request of these steps is at
    if not mode.is_decode() and not torch.equal(positions[real] + 1, lengths[real].long()):
        COUNTS["wrong"].append(f"layer {layer_id}: {mode.name} rows of lengths {lengths.tolist()}")
    owner = torch.arange(rows)
    verify(self, forward_batch, layer_id, q_fp8, weights, metadata, result, lengths, owner, budgets)
    return result


def around_ragged(original, self, dual, forward_batch, layer_id, q_fp8, weights, metadata, topk_result=None):
    result = original(self, dual, forward_batch, layer_id, q_fp8, weights, metadata, topk_result)
    lengths, owner = metadata.get_seqlens_expanded(), metadata.get_token_to_batch_idx()
    COUNTS["prefill_steps"] += 1
    budgets, before = [SET["prefill"]] * len(lengths), COUNTS["pruned"]
    group = SET["group"] if torch.bincount(owner).max() > 1 else 1
    step = (self, forward_batch, layer_id, q_fp8, weights, metadata, result, lengths, owner, budgets)
    verify(*step, group, SET["heads"])
    pool = str(len(get_pool().index_k_with_scale_buffer))
    COUNTS["pruned_prefill"][pool] = COUNTS["pruned_prefill"].get(pool, 0) + COUNTS["pruned"] - before
    write()
    return result


def register():
    if not SET:
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    apply = HookRegistry.apply_hooks

    def last_and_apply():
        indexer = "sglang.srt.layers.attention.dsa.dsa_indexer.Indexer."
        HookRegistry.register(indexer + "_get_topk_paged", around_paged, HookType.AROUND)
        HookRegistry.register(indexer + "_get_topk_ragged", around_ragged, HookType.AROUND)
        apply()

    HookRegistry.apply_hooks = staticmethod(last_and_apply)
