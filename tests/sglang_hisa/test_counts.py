"""Row counts against plain sums, with the padded rows of a decode graph and rows of several chunks."""

import pytest
import torch

from sglang_hisa.counts import KINDS, RowCounts, StockReason


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def test_rows_and_tokens_add_up_by_kind():
    counts = RowCounts()
    counts.allocate(torch.device("cpu"), "torch")
    counts.add("decode", ints(900, 1, 70, 1), ints(320, 1, 70, 1), 1)  # two padded rows
    counts.add("decode", ints(900, 901, 2, 3), ints(320, 320, 2, 3), 3)  # verify two tokens each: one padded
    counts.add("prefill", ints(1, 2, 700), ints(1, 2, 320))
    counts.add(StockReason.DECODE_OFF, ints(5, 1), ints(5, 1), 1)
    report = counts.report()
    assert set(report) == set(KINDS)
    assert report["decode"] == {
        "rows": 4,
        "candidate_tokens": 1030,
        "context_tokens": 2771,
        "candidate_share": pytest.approx(1030 / 2771),
    }
    assert report["prefill"]["rows"] == 3 and report["prefill"]["context_tokens"] == 703
    assert report[StockReason.DECODE_OFF]["rows"] == 1


def test_sums_hold_more_than_an_int32_and_are_made_once():
    counts = RowCounts()
    assert counts.report()["decode"]["candidate_share"] is None
    with pytest.raises(RuntimeError, match="before the KV pool"):
        counts.add("decode", ints(9), ints(9))
    counts.allocate(torch.device("cpu"), "torch")
    rows = torch.full((3000,), 1 << 20, dtype=torch.int32)
    counts.add("decode", rows, rows)
    counts.allocate(torch.device("cpu"), "torch")
    assert counts.report()["decode"]["context_tokens"] == 3000 << 20
