"""The CPU stand-ins of speculative decoding against SGLang's Triton kernels (interpreted) and loops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sglang_hisa.patches.cpu import speculative
from tests.history.sglang_cache import importable


@pytest.fixture(autouse=True)
def _sglang() -> Iterator[None]:
    with importable():
        yield


def tree_of_a_chain(lengths: list[int], tokens: int) -> list[torch.Tensor]:
    """Outputs of the tree kernels (mask, positions, next token ...), by the stand-in and by SGLang."""
    from sglang.kernels.ops.speculative.spec_tree import sgl_build_tree_kernel_efficient_triton

    count, steps = len(lengths), tokens - 1
    parents = torch.arange(-1, steps - 1).repeat(count, 1)
    selected = torch.arange(steps).repeat(count, 1)
    seq_lens = torch.tensor(lengths)
    made = []
    for kernel in ("ours", "sglang"):
        mask = torch.ones(count * tokens * tokens, dtype=torch.bool)
        positions = torch.empty(count * tokens, dtype=torch.int64)
        index, after, sibling = torch.full((3, count, tokens), -1)
        out = (seq_lens, mask, positions, index, after, sibling)
        if kernel == "ours":
            speculative.build_tree_kernel_efficient_cpu(parents, selected, *out, 1, steps, tokens, 1)
        else:
            prefix = seq_lens.cumsum(0) - seq_lens
            inputs = (parents, selected, seq_lens, prefix)
            strides = (parents.stride(0), selected.stride(0))
            shape = (1, steps, tokens, 1, count, *strides)
            sgl_build_tree_kernel_efficient_triton[(count,)](*inputs, *out[1:], *shape)
        made.append([positions, index, after, sibling])
    assert all(torch.equal(a, b) for a, b in zip(*made))
    return made[0]


@pytest.mark.parametrize("tokens", [2, 3, 5])
def test_tree_of_a_chain(tokens: int) -> None:
    positions, *_ = tree_of_a_chain([7, 64, 1], tokens)
    assert positions.tolist() == [n + i for n in (7, 64, 1) for i in range(tokens)]


@pytest.mark.parametrize("tokens", [2, 4])
def test_greedy_verify(tokens: int) -> None:
    """Every number of accepted drafts, and a match after a mismatch, which is not accepted."""
    from sglang.kernels.ops.speculative.spec_tree import verify_tree_greedy_kernel_triton

    cases = 1 << (tokens - 1)
    target = torch.arange(cases * tokens).view(cases, tokens) + 100
    drafts = torch.cat((torch.zeros(cases, 1, dtype=torch.int64), target[:, :-1]), dim=1)
    for case in range(cases):
        for draft in range(1, tokens):
            drafts[case, draft] -= case >> (draft - 1) & 1  # a set bit: this draft is wrong
    _, index, after, sibling = tree_of_a_chain([5] * cases, tokens)
    found = []
    for kernel in ("ours", "sglang"):
        predicts = torch.zeros(cases * tokens, dtype=torch.int32)
        accepted = torch.full((cases, tokens), -1, dtype=torch.int32)
        count = torch.empty(cases, dtype=torch.int32)
        args = (predicts, accepted, count, drafts, index, after, sibling, target)
        if kernel == "ours":
            speculative.verify_tree_greedy_cpu(*args)
        else:
            verify_tree_greedy_kernel_triton[(cases,)](*args, cases, tokens, tokens)
        found.append((predicts, accepted, count))
    assert all(torch.equal(a, b) for a, b in zip(*found))
    predicts, accepted, count = found[0]
    assert set(count.tolist()) == set(range(tokens))
    bonus = torch.empty(cases, dtype=torch.int32)
    speculative.fill_bonus_tokens_cpu(predicts[accepted.long()], count + 1, bonus, tokens)
    assert bonus.tolist() == [int(target[case, count[case]]) for case in range(cases)]


def test_slots_of_tables() -> None:
    table = torch.arange(4 * 50, dtype=torch.int32).view(4, 50) + 1000
    rows, lengths = torch.tensor([2, 0, 3]), torch.tensor([7, 0, 41])
    drafts = torch.empty(3 * 4, dtype=torch.int64)
    speculative.assign_draft_cache_locs_contiguous_cpu(rows, table, lengths, drafts, 50, 1, 4)
    expected = [1000 + 50 * row + n + i for row, n in ((2, 7), (0, 0), (3, 41)) for i in range(4)]
    assert drafts.tolist() == expected
    extended = torch.empty(12, dtype=torch.int64)
    speculative.assign_extend_cache_locs_cpu(rows, table, lengths, lengths + 4, extended, 50)
    assert extended.tolist() == expected
    ends = lengths + torch.tensor([2, 0, 5])
    speculative.assign_req_to_token_pool_cpu(rows, table, lengths, ends, torch.arange(7), 50)
    assert table[2, 7:9].tolist() == [0, 1] and table[3, 41:46].tolist() == [2, 3, 4, 5, 6]
    assert table[0, 0] == 1000 and table[2, 9] == 1109


def test_lengths_of_rows() -> None:
    from sglang.kernels.ops.attention.pad import seqlens_expand_kernel

    new, kv = torch.tensor([3, 1, 4, 3]), torch.tensor([66, 9, 4, 1])  # the last one is padding
    ours = speculative.expand_lengths(new, kv, 11, 4)
    out, offsets = torch.empty(11, dtype=torch.int32), torch.tensor([0, 3, 4, 8])
    seqlens_expand_kernel[(4,)](new.int(), kv.int(), offsets.int(), out, 4, BLOCK=4)
    assert torch.equal(ours, out)
    assert ours.tolist() == [64, 65, 66, 9, 1, 2, 3, 4, 0, 0, 1]


def test_trees_are_refused() -> None:
    zeros = torch.zeros(2, 2, dtype=torch.int64)
    with pytest.raises(NotImplementedError, match="--speculative-eagle-topk 2"):
        speculative.assign_draft_cache_locs_contiguous_cpu(zeros[0], zeros, zeros[0], zeros[0], 2, 2, 1)
    with pytest.raises(NotImplementedError, match="topk 1"):
        speculative.verify_tree_greedy_cpu(zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros)
