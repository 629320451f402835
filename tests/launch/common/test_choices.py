"""The comparison of two servers' choices against plain Python sets."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from sglang_hisa.config import Config
from sglang_hisa.launch.common import choices
from sglang_hisa.launch.common.choices import Answer

LAYERS, TOPK = 3, 7


def make(seed: int, prompt: int, output: tuple[int, ...], cached: int = 0) -> Answer:
    """Random choices: row t takes up to TOPK different tokens of 0..t, in any order, then -1."""
    draw = np.random.default_rng(seed)
    chosen = np.full((prompt + len(output) - 1, LAYERS, TOPK), -1, dtype=np.int32)
    for row in range(len(chosen)):
        count = min(row + 1, TOPK - row % 3)
        for layer in range(LAYERS):
            chosen[row, layer, :count] = draw.permutation(row + 1)[:count]
    return Answer(prompt, cached, output, 0.1, chosen)


def truth(stock: Answer, hisa: Answer, row: int) -> list[float]:
    """Share of each layer."""
    kept = []
    for layer in range(LAYERS):
        a = set(stock.chosen[row, layer].tolist()) - {-1}
        b = set(hisa.chosen[row, layer].tolist()) - {-1}
        kept.append(len(a & b) / len(a))
    return kept


def test_shares_equal_set_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "_CELLS", 1000)  # many small groups
    stock, hisa = make(1, 61, (5, 5, 5)), make(2, 61, (5, 5, 5))
    got = choices.shares(stock, hisa, range(0, 63))
    np.testing.assert_allclose(got, [truth(stock, hisa, row) for row in range(63)])
    assert 0 < got.mean() < 1


def test_a_server_agrees_with_itself_in_any_order() -> None:
    stock = make(3, 40, (9,))
    shuffled = np.random.default_rng(4).permuted(stock.chosen, axis=2)
    got = choices.shares(stock, Answer(40, 0, (9,), 0.1, shuffled), range(0, 40))
    np.testing.assert_array_equal(got, np.ones((40, LAYERS)))


def test_comparable_rows() -> None:
    base = make(1, 50, (1, 2, 3))
    assert choices.comparable_rows(base, make(2, 50, (1, 2, 3))) == range(TOPK, 52)
    assert choices.comparable_rows(base, make(2, 50, (1, 9, 3))) == range(TOPK, 51), "contexts part"
    assert choices.comparable_rows(base, make(2, 50, (9, 2, 3))) == range(TOPK, 50)
    assert choices.comparable_rows(base, make(2, 50, (1, 2, 3), cached=32)) == range(32, 52)
    short = make(1, 3, (1, 2))
    assert len(choices.comparable_rows(short, short)) == 0
    assert choices.shares(short, short, choices.comparable_rows(short, short)).size == 0


def candidate_share(context: int, budget: int) -> float:
    """Blocks of 64: the row's own block, and the others of its budget; everything when it fits."""
    blocks, kept = -(-context // 64), budget // 64
    return 1.0 if blocks <= kept else (context - (blocks - kept) * 64) / context


def test_summary_by_phase_and_context() -> None:
    config = Config(decode_tokens=256, decode_fraction=0.0, prefill_tokens=320, prefill_fraction=0.0)
    pairs = [
        (make(5, 645, (1, 2, 3)), make(6, 645, (1, 2, 3))),
        (make(7, 431, (1, 2)), make(8, 431, (1, 4), cached=128)),
    ]
    edges, budgets = (0, 300, 432, 700), {"prefill": 320, "decode": 256}
    expected: dict[tuple[str, int], list[list[float]]] = {}
    for stock, hisa in pairs:
        for row in choices.comparable_rows(stock, hisa):
            phase = "prefill" if row < stock.prompt_tokens else "decode"
            high = next(edge for edge in edges if row + 1 <= edge)
            kept = truth(stock, hisa, row)
            values = [candidate_share(row + 1, budgets[phase]), kept[0], sum(kept) / LAYERS]
            expected.setdefault((phase, high), []).append(values)
    bins = choices.summarise(pairs, config, edges)
    assert {(b.phase, b.high) for b in bins} == set(expected)
    for row in bins:
        values = np.array(expected[row.phase, row.high])
        assert row.rows == len(values)
        np.testing.assert_allclose([row.scored, row.first_layer, row.all_layers], values.mean(axis=0))


def test_decode_reads_what_sglang_sends() -> None:
    sent = np.arange(5 * LAYERS * TOPK, dtype=np.int32)
    text = base64.b64encode(sent.tobytes()).decode()
    got = choices.decode({"indexer_topk": text}, LAYERS, TOPK)
    np.testing.assert_array_equal(got, sent.reshape(5, LAYERS, TOPK))
    with pytest.raises(ValueError, match="enable-return-indexer-topk"):
        choices.decode({}, LAYERS, TOPK)
    with pytest.raises(ValueError, match="105 numbers"):
        choices.decode({"indexer_topk": text}, LAYERS + 1, TOPK)
