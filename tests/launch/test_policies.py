"""Ways to spend a budget, against plain loops, and the record of `recall --policies`."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sglang_hisa.kernels.layout import HEAD_DIM, PAGE
from sglang_hisa.launch.quality import policies, policy_record, recall, scorers
from sglang_hisa.launch.quality.policies import Scored

MODEL = Path(__file__).parents[2] / "launch" / "retriever"
PAGES, TAIL, ROWS, TOPK = 17, PAGE + 21, 5, 131


def _parts(seed: int, rows: int = ROWS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, weights (also negative ones) and keys of 17 whole pages and 85 tokens after them."""
    source = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, 6, HEAD_DIM, generator=source)
    key = torch.randn(PAGES * PAGE + TAIL, HEAD_DIM, generator=source)
    key += torch.randn(PAGES + 2, HEAD_DIM, generator=source).repeat_interleave(PAGE, dim=0)[: len(key)]
    return query, torch.randn(rows, 6, generator=source) / 40, scorers.fp8(key)


def _scored(seed: int, rows: int = ROWS) -> Scored:
    return Scored.of(_parts(seed, rows), TOPK)


def _best(scores: list[float], count: int) -> set[int]:
    """Page 0 and the best others, ``count`` in all."""
    rest = sorted(range(1, len(scores)), key=lambda page: -scores[page])
    return {0, *rest[: count - 1]}


def _sets(kept: torch.Tensor) -> list[set[int]]:
    return [set(row.nonzero()[:, 0].tolist()) for row in kept]


def test_a_choice_is_judged_by_the_tokens_it_keeps() -> None:
    query, weights, key = parts = _parts(1)
    one = Scored.of(parts, TOPK)
    assert one.pages.shape == (ROWS, PAGES)
    assert torch.equal(one.pages, scorers.mean(key[: PAGES * PAGE].view(PAGES, PAGE, -1), query, weights))
    kept = torch.rand(ROWS, PAGES) < 0.4
    tokens, hits, mass = one.judge(kept)
    scores = scorers.token_scores(*parts)
    for row in range(ROWS):
        seen = {t for t in range(len(key)) if t >= PAGES * PAGE or kept[row, t // PAGE]}
        stock = scores[row].topk(TOPK).indices.tolist()
        share = dict(zip(stock, scores[row][stock].softmax(dim=0).tolist()))
        assert tokens[row] == len(seen) and hits[row] == len(seen & set(stock))
        assert mass[row] == pytest.approx(sum(share[t] for t in seen & set(stock)), abs=1e-5)
    assert torch.allclose(one.judge(torch.ones_like(kept))[1:], torch.tensor([[TOPK], [1.0]]))


def test_the_fixed_budget_is_that_of_the_other_record() -> None:
    parts = _parts(14)
    mean = next(v for v in scorers.VARIANTS if v.name == "mean of 64 (served)")
    for count in (3, 8):
        whole = recall.kept_tokens(mean, parts, torch.empty(0), (count + 2) * PAGE)
        assert whole[:, PAGES * PAGE :].all()
        kept = policies.keep(Scored.of(parts, TOPK).pages, count)
        assert torch.equal(whole[:, : PAGES * PAGE], kept.repeat_interleave(PAGE, dim=1))


@pytest.mark.parametrize("count", [2, 7, PAGES])
@pytest.mark.parametrize("how", ["plain sum", "sum", "best", "union"])
@pytest.mark.parametrize("rows", [2, 4])
def test_neighbours_share_their_pages(rows: int, how: str, count: int) -> None:
    """Five rows: the last group is a row alone, which keeps what it would by itself."""
    one = _scored(15)
    got = _sets(policies.together(one, count, rows, how))
    rows_of = one.pages.tolist()
    scores = [[(s - statistics.fmean(row)) / statistics.stdev(row) for s in row] for row in rows_of]
    if how == "plain sum":
        scores = rows_of
    for start in range(0, ROWS, rows):
        group = scores[start : start + rows]
        assert all(kept == got[start] for kept in got[start : start + rows])
        if how == "union":
            queues = [sorted(range(1, PAGES), key=lambda page, row=row: -row[page]) for row in group]
            want = {0}
            for turn in zip(*queues):  # each row names its next page, the more certain row first
                for page in sorted(turn, key=lambda p: -max(row[p] for row in group)):
                    want |= {page} if len(want) < count else set()
        else:
            merged = [max(each) if how == "best" else sum(each) for each in zip(*group)]
            want = _best(merged, count)
        assert got[start] == want
    assert got[-1] == _best(scores[-1], count)


@pytest.mark.parametrize("kind", policies.SUPERS)
@pytest.mark.parametrize("size", policies.SIZES)
def test_super_blocks_are_summaries_of_page_summaries(size: int, kind: str) -> None:
    query, weights, key = parts = _parts(2)
    got = Scored.of(parts, TOPK).supers[size, kind]
    means = scorers.fp8(key[: PAGES * PAGE].view(PAGES, PAGE, -1).mean(dim=1))
    assert got.shape == (ROWS, -(-PAGES // size)), "17 pages: the last super-block holds one page"
    for number in range(got.shape[1]):
        inside = means[number * size : (number + 1) * size]
        weight = torch.ones(len(inside))
        if kind == "salient mean" and len(inside) > 1:
            weight = torch.stack([(m - inside.mean(dim=0)).square().sum() for m in inside])
        summary = scorers.fp8((weight[:, None] * inside).sum(dim=0) / weight.sum())
        want = scorers.token_scores(query, weights, summary[None])[:, 0]
        assert torch.allclose(got[:, number], want, rtol=0.02, atol=0.02 * want.abs().max().item())


def test_rules_keep_the_pages_that_they_name() -> None:
    one = _scored(3)
    for row, scores in enumerate(one.pages.tolist()):
        best, middle = max(scores), sum(scores) / PAGES
        deviation = one.pages[row].std().item()
        shares = one.pages[row].softmax(dim=0).tolist()
        better = [sum(s for s, other in zip(shares, scores) if other > mine) for mine in scores]
        for level in (0.1, 0.35, 0.8, 1.7):
            want = {
                "margin": {p for p, s in enumerate(scores) if s >= best - level},
                "spread": {p for p, s in enumerate(scores) if s >= middle - level * deviation},
                "top-p": {p for p in range(PAGES) if better[p] <= level},
            }
            for rule, pages in want.items():
                assert _sets(policies.RULES[rule](one) <= level)[row] == pages, (rule, level)


def test_known_masses_give_the_best_trade() -> None:
    one = _scored(4)
    thresholds = policies.known(one)
    for row in range(ROWS):
        kept = [
            sum(one.mass[row, p].item() for p in _best(one.pages[row].tolist(), n))
            for n in range(1, PAGES + 1)
        ]
        for price in (0.004, 0.013, 0.04, 0.11):
            worth = [0.0, *(mass - price * n for n, mass in enumerate(kept, start=1))]
            count = int(policies.counts(thresholds, -price, 0, PAGES)[row])
            assert worth[count] == pytest.approx(max(worth), abs=1e-5)


@pytest.mark.parametrize("rule", policies.RULES)
def test_levels_spend_the_mean_budget_between_floor_and_cap(rule: str) -> None:
    calibration = [[_scored(10 + n, rows)] for n, rows in enumerate((2, 3, 11, 2, 5))]
    choose = policy_record.adaptive(calibration, count=4, topk=3 * PAGE, joint=False, rule=rule)
    kept = [choose(layers)[0][0] for layers in calibration]
    means = [k.sum(dim=1).float().mean().item() for k in kept]
    assert 4 <= sum(means) / 5 < 4.6, "of prompts, whatever number of rows they have"
    counts = torch.cat([k.sum(dim=1) for k in kept])
    assert counts.min() == 3 and counts.max() <= 2 * 6 - 2
    for (one,), mine in zip(calibration, kept):
        assert _sets(mine) == [_best(s, int(n)) for s, n in zip(one.pages.tolist(), mine.sum(dim=1))]
    few = policies.calibrate([policies.RULES[rule](one) for (one,) in calibration], 5, 4, 6)
    held = torch.cat([policies.counts(policies.RULES[rule](one), few, 4, 6) for (one,) in calibration])
    assert held.min() == 4 and held.max() == 6


def test_no_row_keeps_more_than_twice_the_budget_or_less_than_top_k() -> None:
    calibration = [[_scored(60 + n)] for n in range(3)]
    choose = policy_record.adaptive(calibration, count=4, topk=3 * PAGE, joint=False, rule="margin")
    one = calibration[0][0]
    [(flat, _)] = choose([replace(one, pages=one.pages * 0)])
    [(steep, _)] = choose([replace(one, pages=one.pages * 1e4)])
    assert flat.sum(dim=1).tolist() == [2 * (4 + 2) - 2] * ROWS, (
        "the budget's two further blocks are the tail"
    )
    assert steep.sum(dim=1).tolist() == [3] * ROWS


def test_one_level_moves_budget_between_layers() -> None:
    calibration = [[_scored(30 + n), _scored(40 + n)] for n in range(4)]
    sharp = [[a, replace(b, pages=b.pages * 6)] for a, b in calibration]
    means = {}
    for joint in (False, True):
        choose = policy_record.adaptive(sharp, count=7, topk=3 * PAGE, joint=joint, rule="margin")
        kept = [choose(layers) for layers in sharp]
        means[joint] = [torch.cat([k[n][0] for k in kept]).sum(dim=1).float().mean().item() for n in (0, 1)]
    assert means[False] == [pytest.approx(7, abs=0.4)] * 2
    assert means[True][0] > 9 and means[True][1] < 6 and sum(means[True]) / 2 == pytest.approx(7, abs=0.4)


def _used(one: Scored, row: int, pages: set[int], best: int) -> set[int]:
    seen = [t for t in range(one.tokens.shape[1]) if t // PAGE in pages or t >= PAGES * PAGE]
    top = sorted(seen, key=lambda t: -one.tokens[row, t].item())[:best]
    return {t // PAGE for t in top if t < PAGES * PAGE}


def _preferred(scores: list[float], wanted: set[int], count: int) -> set[int]:
    return _best([s + 1e6 * (page in wanted) for page, s in enumerate(scores)], count)


def test_the_row_before_lends_what_it_kept() -> None:
    one = _scored(5)
    want = [_best(one.pages[0].tolist(), 6)]
    for row in range(1, ROWS):
        wanted = _used(one, row - 1, want[-1], policies.USED)
        want.append(_preferred(one.pages[row].tolist(), wanted, 6))
    assert _sets(policies.row_before(one, 6)) == want
    assert want != _sets(policies.keep(one.pages, 6))


@pytest.mark.parametrize("best", [3, 32])
def test_the_layer_before_lends_what_it_kept(best: int) -> None:
    layers = [_scored(seed) for seed in (6, 7, 8)]
    own = [_sets(policies.keep(one.pages, 6)) for one in layers]
    for how in ("within", "added", "all"):
        got = [_sets(kept) for kept in policies.layers_before(layers, 6, how, best)]
        want = [own[0]]
        for number in (1, 2):
            mine = []
            for row in range(ROWS):
                used = _used(layers[number - 1], row, want[-1][row], best)
                scores = layers[number].pages[row].tolist()
                choice = {"within": _preferred(scores, used, 6), "added": own[number][row] | used}
                mine.append(choice.get(how, want[0][row]))
            want.append(mine)
        assert got == want and got[1] != own[1]


def test_two_levels_look_only_into_opened_super_blocks() -> None:
    one = _scored(9)
    supers = one.supers[8, "mean"]  # of 8, 8 and 1 pages
    assert policies.room(PAGES, 8, 2 / 3) == 9, "the short one may be opened"
    got = _sets(policies.two_levels(one.pages, supers, 8, 2 / 3, 6))
    for row in range(ROWS):
        other = 1 if supers[row, 1] > supers[row, 2] else 2
        inside = [s if p // 8 in (0, other) else float("-inf") for p, s in enumerate(one.pages[row].tolist())]
        assert got[row] == _best(inside, 6)
    assert got != _sets(policies.keep(one.pages, 6))
    assert _sets(policies.two_levels(one.pages, supers, 8, 1.0, 6)) == _sets(policies.keep(one.pages, 6))
    with pytest.raises(ValueError, match="do not hold 10 pages"):
        policies.two_levels(one.pages, supers, 8, 2 / 3, 10)


def test_gains_are_against_as_many_pages_by_rank() -> None:
    prompts = [[_scored(50 + n, rows)] for n, rows in enumerate((2, 7, 3))]
    fixed = [(layers, [(policies.keep(layers[0].pages, 6), PAGES)]) for layers in prompts]
    told = policy_record.compared(fixed, TOPK)
    assert told["gain"] == pytest.approx(0, abs=1e-6) and told["mass"] == pytest.approx(told["even_mass"])
    assert told["tokens_mean"] == told["tokens_most"] == 6 * PAGE + TAIL and told["rows"] == 12
    # Rows in turn keep 4 and 8 pages: of 2, 7 and 3 rows a mean of (6 + 40/7 + 16/3) / 3.
    uneven = []
    for layers in prompts:
        counts = torch.tensor([[4], [8]]).repeat(9, 1)[: len(layers[0].pages)]
        uneven.append((layers, [(policies.keep(layers[0].pages, counts), PAGES)]))
    told = policy_record.compared(uneven, TOPK)
    pages = (6 + 40 / 7 + 16 / 3) / 3
    assert (
        told["tokens_mean"] == pytest.approx(pages * PAGE + TAIL) and told["tokens_most"] == 8 * PAGE + TAIL
    )
    gains, masses = [], []
    for (one,), (_, [(kept, _)]) in zip(prompts, uneven):
        five, six = (one.judge(policies.keep(one.pages, n))[2].mean() for n in (5, 6))
        masses.append(one.judge(kept)[2].mean())
        gains.append(masses[-1] - (five * (6 - pages) + six * (pages - 5)))
    assert told["mass"] == pytest.approx(sum(masses).item() / 3)
    assert told["gain"] == pytest.approx(sum(gains).item() / 3, abs=1e-6)
    spread = torch.stack(gains).std().item()
    assert told["gain_half_width"] == pytest.approx(4.302653 * spread / 3**0.5, rel=1e-4), (
        "Student, 2 degrees"
    )


def test_record_of_the_trained_model(tmp_path: Path) -> None:
    out = tmp_path / "policies.json"
    words = [str(MODEL), "--out", str(out), "--context", "1500", "--budgets", "768", "1024", "--topk", "384"]
    words += ["--tasks", "multikey-2", "--policies", *policy_record.GROUPS]
    assert recall.main(words) == 0
    record = json.loads(out.read_text())
    rows = {(r["policy"], r["budget"], r["layer"]): r for r in record["rows"]}
    names = {name for name, _, _ in rows}
    assert len(rows) == len(record["rows"]) == len(names) * 2 * 4 and record["calibration_seed"] == 1077
    assert {r["group"] for r in record["rows"]} == {"fixed", *policy_record.GROUPS}
    for (name, budget, layer), row in rows.items():
        assert row["prompts"] == 5 and row["rows"] == 10 and 0 < row["mass"] <= 1
        assert row["tokens_mean"] <= row["tokens_most"] <= 2 * budget
        if row["group"] in ("reuse", "two-level") and "added" not in name:
            assert row["tokens_most"] <= budget
        if layer == "all":
            assert row["mass"] == pytest.approx(sum(rows[name, budget, n]["mass"] for n in range(3)) / 3)
    assert out.with_suffix(".png").stat().st_size > 20_000


def test_choices_that_say_nothing_are_refused(tmp_path: Path) -> None:
    words = [str(MODEL), "--out", str(tmp_path / "r.json"), "--policies", "adaptive"]
    for more in (["--budgets", "2048"], ["--samples", "2", "--calibration-seed", "78"]):
        with pytest.raises(SystemExit):
            recall.main([*words, *more])
