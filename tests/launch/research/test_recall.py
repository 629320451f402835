"""The offline comparison of summaries: its arithmetic against the served kernels' truth, and its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sglang_hisa import PAGE
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import FP8, HEAD_DIM, KEY_BYTES, ROW_BYTES
from sglang_hisa.launch.research import recall, scorers

MODEL = Path(__file__).parents[3] / "launch" / "research" / "retriever"


def _pages(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random index-K rows uint8 ``[count, 8448]`` and their keys fp32 ``[count, 64, 128]``."""
    torch.manual_seed(3)
    rows = torch.empty(count, ROW_BYTES, dtype=torch.uint8)
    rows[:, :KEY_BYTES] = (torch.randn(count, KEY_BYTES) * 40).to(FP8).view(torch.uint8)
    rows[:, KEY_BYTES:] = (torch.rand(count, PAGE) + 0.1).view(torch.uint8)
    keys = rows[:, :KEY_BYTES].view(FP8).float().view(count, PAGE, HEAD_DIM)
    return rows, keys * rows[:, KEY_BYTES:].view(torch.float32)[:, :, None]


def _salient_means(keys: torch.Tensor) -> torch.Tensor:
    """fp32 ``[pages, 64, 128]`` -> ``[pages, 128]``: keys by their squared distance from the mean."""
    middle = keys.double().sum(dim=1) / PAGE
    away = (keys.double() - middle[:, None]).square().sum(dim=2)
    return (torch.einsum("ptd,pt->pd", keys.double(), away) / away.sum(dim=1)[:, None]).float()


@pytest.mark.parametrize("name", ["mean", "salient"])
def test_scores_are_those_of_fp8_summaries(name: str) -> None:
    rows, keys = _pages(37)
    made = _salient_means(keys) if name == "salient" else reference.page_means(rows, torch.arange(37))
    summary, scale = reference.quantise(made)
    query, weights = torch.randn(5, 8, HEAD_DIM), torch.randn(5, 8)
    served = [reference.mqa_scores(q, w, summary.float() * scale[:, None]) for q, w in zip(query, weights)]
    want = torch.stack(served)
    got = getattr(scorers, name)(keys, query, weights)
    # Elements on the edge of two fp8 values may fall either way.
    assert (got - want).abs().max() < 0.02 * want.abs().max()
    plain = scorers.mean(keys, query, weights)
    if name == "salient":
        assert (got - plain).abs().max() > 0.2 * want.abs().max()


def test_budget_keeps_first_best_and_tail() -> None:
    _, keys = _pages(9)
    query, weights = torch.randn(3, 4, HEAD_DIM), torch.rand(3, 4)
    key = keys.flatten(0, 1)[: 8 * PAGE + 21]
    parts = (query, weights, key)
    scores = scorers.token_scores(query, weights, key)
    best = next(v for v in scorers.VARIANTS if v.score is scorers.best_token)
    kept = recall.kept_tokens(best, parts, scores, 5 * PAGE)
    assert kept[:, :PAGE].all() and kept[:, 7 * PAGE :].all()
    inner = kept[:, : 7 * PAGE].view(3, 7, PAGE)
    assert (inner.all(dim=2) == inner.any(dim=2)).all() and (inner.all(dim=2).sum(dim=1) == 3).all()
    top = scores[:, PAGE : 7 * PAGE].view(3, 6, PAGE).amax(dim=2).topk(2).indices + 1
    assert inner[torch.arange(3)[:, None], top].all()


def test_share_kept_is_counted_against_the_whole_context() -> None:
    _, keys = _pages(40)
    parts = (torch.randn(3, 4, HEAD_DIM), torch.rand(3, 4), keys.flatten(0, 1)[: 39 * PAGE + 21])
    scores = scorers.token_scores(*parts)
    everything = recall.compare(parts, 60 * PAGE, 100)
    assert all(pair == (1.0, pytest.approx(1.0)) for pair in everything.values())
    some = recall.compare(parts, 20 * PAGE, 100)
    for variant in scorers.VARIANTS:
        kept = recall.kept_tokens(variant, parts, scores, 20 * PAGE)
        truth = [set(row.topk(100).indices.tolist()) for row in scores]
        hits = [sum(bool(kept[row, token]) for token in tokens) for row, tokens in enumerate(truth)]
        assert some[variant.name][0] == pytest.approx(sum(hits) / 300)
    assert max(mass for _, mass in some.values()) == some["best token (bound)"][1]


def test_budgets_that_leave_no_choice_are_refused(tmp_path: Path) -> None:
    for words in (["--budgets", "512"], ["--context", "4096", "--budgets", "8192"], ["--topk", "20000"]):
        with pytest.raises(SystemExit):
            recall.main([str(MODEL), "--out", str(tmp_path / "r.json"), *words])


def test_record_of_the_trained_model(tmp_path: Path) -> None:
    out = tmp_path / "recall.json"
    words = [str(MODEL), "--out", str(out), "--context", "1500", "--budgets", "768", "1024", "--topk", "384"]
    words += ["--tasks", "multikey-2"]
    assert recall.main(words) == 0
    record = json.loads(out.read_text())
    rows = {(r["variant"], r["budget"], r["layer"]): r for r in record["rows"]}
    assert len(rows) == len(scorers.VARIANTS) * 2 * 3 and record["topk"] == 384
    for (name, budget, layer), row in rows.items():
        assert row["prompts"] == 5 and 0 < row["recall"] <= 1
        if budget == 768:
            assert rows[name, 1024, layer]["mass"] > row["mass"]
    assert out.with_suffix(".png").stat().st_size > 20_000
