"""Budgets: counts per row, on the host and on the device alike."""

import random

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.budget import KEEP_EVERYTHING, make_rule, sink_blocks
from sglang_hisa.config import parse
from sglang_hisa.kernels.reference import plan_rows

TOPK = 2048


def rule(text, phase="decode", init=0, local=0):
    return make_rule(parse(text), phase, TOPK, init, local)


@pytest.mark.parametrize(
    "text", ["balanced", "paper", "paper-4to1", '{"block": 256, "decode_fraction": 0.3}']
)
def test_device_agrees_with_host(text):
    r = rule(text)
    source = random.Random(1)
    lengths = [0, 1, 63, 64, 65, 8191, 8192, 8193] + [source.randrange(1, 1 << 20) for _ in range(300)]
    picks, candidates = plan_rows(torch.tensor(lengths, dtype=torch.int32), r.blocks, r.share, r.block)
    for length, pick, tokens in zip(lengths, picks.tolist(), candidates.tolist()):
        blocks = -(-length // r.block)
        keep = min(r.count(length), max(blocks, 1))
        assert pick == keep - 1
        assert tokens == length - (blocks - keep) * r.block if length else tokens == 0
        assert tokens >= min(length, TOPK), "too few candidates for the top-k"
        assert -(-tokens // PAGE) <= r.width(max(length, 1))
        assert r.fits(length) == (tokens == length)


def test_budget_grows_with_the_rows_own_context():
    r = rule("balanced")
    assert r.count(64 * 1024) * 64 == 32768
    assert r.count(1024 * 1024) * 64 == 65536
    assert rule("balanced", "prefill").count(128 * 1024) * 64 == 32768
    assert rule("balanced", "prefill").count(256 * 1024) * 64 == 65536


def test_rows_may_have_rules_of_their_own():
    lengths = torch.tensor([100_000, 100_000, 100_000], dtype=torch.int32)
    rules = [rule("balanced"), rule("balanced", "prefill"), KEEP_EVERYTHING]
    blocks, share = (
        torch.tensor([getattr(r, n) for r in rules], dtype=torch.int32) for n in ("blocks", "share")
    )
    _, candidates = plan_rows(lengths, blocks, share, 64)
    want = [r.count(100_000) for r in rules[:2]]
    last = 100_000 - (-(-100_000 // 64) - 1) * 64
    assert candidates.tolist() == [(n - 1) * 64 + last for n in want] + [100_000]


def test_phase_left_to_stock_keeps_everything():
    assert rule("decode-only", "prefill").fits(1 << 20)


def test_forced_blocks_fit_a_small_budget():
    r = rule('{"decode_tokens": 2048, "decode_fraction": 0, "sink_tokens": 1000, "local_tokens": 4000}')
    assert r.blocks >= -(-1000 // 64) + -(-4000 // 64) + 1
    assert sink_blocks(parse('{"sink_tokens": 65}'), 0) == 2
    assert sink_blocks(parse('{"sink_tokens": 0}'), 0) == 1
    assert sink_blocks(parse("balanced"), init_tokens=129) == 3


@pytest.mark.parametrize(
    ("setting", "longest", "least"),
    [('{"decode_tokens": 20000, "decode_fraction": 0.3}', 300_000, 1 << 20), ("paper", 80_000, 131072)],
)
def test_pruning_pays_from_enough_unread_tokens_on(setting, longest, least):
    """Against the plain sum, with a large budget that grows with the row and with a small one."""
    r, source = rule(setting), random.Random(3)
    seen = set()
    for _ in range(400):
        lengths = [source.randrange(1, longest) for _ in range(source.randrange(1, 12))]
        left = sum(max(0, n - r.count(n) * r.block) for n in lengths)
        pays = r.pays(lengths)
        seen.add(pays)
        assert pays == (left >= least)
    assert seen == {True, False}


def test_few_requests_of_paper_decode_as_with_stock():
    """The measured cases on both sides of the limit."""
    r = rule("paper")
    K = 1024
    assert [r.pays([32 * K] * n) for n in (1, 4, 16)] == [False, False, True]
    assert [r.pays([128 * K + 64] * n) for n in (1, 4)] == [False, True]


def test_few_requests_of_balanced_decode_as_with_stock():
    """Likewise, by ``ab-many`` and ``ab-many-256k``."""
    r = rule("balanced")
    K = 1024
    for length in (128 * K + 64, 256 * K + 64):
        assert [r.pays([length] * n) for n in (1, 4, 16)] == [False, False, True]
