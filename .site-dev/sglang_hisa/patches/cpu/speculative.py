"""The small kernels of EAGLE speculative decoding, whose CPU forms are in a package that has no CPU build.

Chains only: one draft token a step (``--speculative-eagle-topk 1``), the only form that HISA serves.
Names and arguments are those of sgl_kernel's CPU functions, as SGLang calls them.
"""

from __future__ import annotations

import torch


def _only_chains(topk: int) -> None:
    if topk != 1:
        raise NotImplementedError(f"trees of drafts (--speculative-eagle-topk {topk}) on a CPU; use 1")


def _columns(
    req_pool_indices: torch.Tensor, req_to_token: torch.Tensor, start: torch.Tensor, count: int
) -> torch.Tensor:
    at = start.long()[:, None] + torch.arange(count)
    return req_to_token[req_pool_indices.long()[:, None], at]


def assign_req_to_token_pool_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """Write the slots ``out_cache_loc``, request after request, to columns start to end of each table."""
    at = 0
    for row, start, end in zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist()):
        req_to_token[row, start:end] = out_cache_loc[at : at + end - start].to(req_to_token.dtype)
        at += end - start


def assign_extend_cache_locs_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """Read the slots of columns start to end of each table to ``out_cache_loc``, request after request."""
    rows = zip(req_pool_indices.tolist(), start_offset.tolist(), end_offset.tolist())
    slots = torch.cat([req_to_token[row, start:end] for row, start, end in rows])
    out_cache_loc[: slots.numel()] = slots.to(out_cache_loc.dtype)


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    seq_lens: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
    topk: int,
    speculative_num_steps: int,
) -> None:
    """Slots of the ``speculative_num_steps`` tokens after each request's last."""
    _only_chains(topk)
    slots = _columns(req_pool_indices, req_to_token, seq_lens, speculative_num_steps)
    out_cache_loc.copy_(slots.reshape(-1))


def build_tree_kernel_efficient_cpu(
    parent_list: torch.Tensor,
    selected_index: torch.Tensor,
    verified_seq_len: torch.Tensor,
    tree_mask: torch.Tensor,
    positions: torch.Tensor,
    retrieve_index: torch.Tensor,
    retrieve_next_token: torch.Tensor,
    retrieve_next_sibling: torch.Tensor,
    topk: int,
    depth: int,
    draft_token_num: int,
    tree_mask_mode: int,
) -> None:
    """A chain: each token follows the one before. DSA's verify reads no tree mask; it is left as it is."""
    _only_chains(topk)
    token = torch.arange(draft_token_num)
    requests = torch.arange(verified_seq_len.numel())[:, None]
    positions.copy_((verified_seq_len.long()[:, None] + token).reshape(-1))
    retrieve_index.copy_(requests * draft_token_num + token)
    following = torch.where(token + 1 < draft_token_num, token + 1, -1)
    retrieve_next_token.copy_(following.expand_as(retrieve_next_token))
    retrieve_next_sibling.fill_(-1)


def verify_tree_greedy_cpu(
    predicts: torch.Tensor,
    accept_index: torch.Tensor,
    accept_token_num: torch.Tensor,
    candidates: torch.Tensor,
    retrive_index: torch.Tensor,
    retrive_next_token: torch.Tensor,
    retrive_next_sibling: torch.Tensor,
    target_predict: torch.Tensor,
) -> None:
    """Accept drafts while each is what the target predicts after the one before.

    candidates, target_predict int ``[requests, tokens]`` (the first token is no draft) -> ``predicts``
    (target's tokens where accepted or last), ``accept_index`` ``[requests, depth]`` (indices of accepted
    tokens, -1 padded) and ``accept_token_num`` (accepted drafts).
    """
    if (retrive_next_sibling >= 0).any():
        raise NotImplementedError("trees of drafts on a CPU; use --speculative-eagle-topk 1")
    tokens = candidates.shape[1]
    matches = (candidates[:, 1:] == target_predict[:, :-1]).long()
    accepted = matches.cumprod(dim=1).sum(dim=1).clamp_max(accept_index.shape[1] - 1)
    column = torch.arange(accept_index.shape[1])
    taken = column <= accepted[:, None]
    accept_index.copy_(torch.where(taken, retrive_index[:, : column.numel()], -1))
    accept_token_num.copy_(accepted)
    kept = torch.arange(tokens) <= accepted[:, None]
    predicts.copy_(torch.where(kept.reshape(-1), target_predict.reshape(-1).to(predicts.dtype), predicts))


def fill_bonus_tokens_cpu(
    accept_tokens: torch.Tensor, accept_lens: torch.Tensor, bonus_tokens: torch.Tensor, accept_stride: int
) -> None:
    """The last accepted token of each request, of ``accept_stride`` a request."""
    last = torch.arange(accept_lens.numel()) * accept_stride + accept_lens.long() - 1
    bonus_tokens.copy_(accept_tokens.flatten()[last])


def expand_lengths(
    extend_seq_lens: torch.Tensor, seq_lens: torch.Tensor, total_len: int, max_q_len: int
) -> torch.Tensor:
    """``seqlens_expand_triton``: the length of each new token's row, int32 ``[total_len]``."""
    spans = zip(extend_seq_lens.tolist(), seq_lens.tolist())
    lengths = torch.cat([torch.arange(kv - new + 1, kv + 1) for new, kv in spans])
    return lengths.clamp_min(0).to(torch.int32)
