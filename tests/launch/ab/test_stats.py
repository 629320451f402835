"""Verdicts of an A/B record: known effects are found, noise is not."""

import math
import statistics

import pytest
from scipy.stats import ttest_1samp

from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.common.typed import as_json
from tests.launch.ab.records import CELLS, make, typed


def compute(record):
    """As a record's file has it."""
    return as_json(stats.compute(typed(record)))


def verdicts(record):
    return {(c["arm"], c["cell"], c["metric"]): c["verdict"] for c in compute(record)["comparisons"]}


@pytest.mark.parametrize("seed", range(20))
def test_the_same_arm_twice_shows_no_difference(seed):
    found = verdicts(make({"stock": 1, "again": 1}, seed=seed))
    assert len(found) == len(CELLS) * len(stats.METRICS)
    assert set(found.values()) == {stats.SAME}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("factor,verdict", [(1 / 1.05, stats.SLOWER), (1.5, stats.FASTER)])
def test_a_known_effect_is_called_and_its_interval_holds_it(factor, verdict, seed):
    found = compute(make({"stock": 1, "arm": factor}, seed=seed, noise=0.004, rounds=8))
    assert {c["verdict"] for c in found["comparisons"]} == {verdict}
    assert found["verdicts"] == {"arm": {verdict: 12}}
    # Of twelve 95 % intervals a few may miss.
    assert sum(c["low"] < factor < c["high"] for c in found["comparisons"]) >= 9
    for c in found["comparisons"]:
        assert c["low"] < c["speedup"] < c["high"]
        assert c["speedup"] == pytest.approx(factor, rel=0.02)
        ratio = c["arm_median"] / c["baseline_median"]
        assert ratio == pytest.approx(factor if c["metric"] == "throughput" else 1 / factor, rel=0.02)


def test_the_interval_and_p_are_those_of_scipys_paired_t_test():
    record = make({"stock": 1, "arm": 1.1}, rounds=7, noise=0.05)
    found = next(c for c in compute(record)["comparisons"] if (c["cell"], c["metric"]) == (2, "ttft"))
    sides = [
        [statistics.median(m["ttft_s"]) for m in record["measurements"] if (m["arm"], m["cell"]) == (arm, 2)]
        for arm in ("stock", "arm")
    ]
    logs = [math.log(a / b) for a, b in zip(*sides)]
    truth = ttest_1samp(logs, 0)
    interval = truth.confidence_interval(0.95)
    assert found["pairs"] == 7
    assert found["p"] == pytest.approx(truth.pvalue)
    assert [found["low"], found["high"]] == pytest.approx([math.exp(interval.low), math.exp(interval.high)])
    assert found["speedup"] == pytest.approx(statistics.geometric_mean(found["ratios"]))


def test_holm_corrects_over_the_comparisons_of_an_arm():
    found = compute(make({"stock": 1, "a": 1.02, "b": 3}, noise=0.02))["comparisons"]
    ours = sorted((c for c in found if c["arm"] == "a"), key=lambda c: c["p"])
    low = 0.0
    for i, c in enumerate(ours):
        low = max(low, min(1, c["p"] * (12 - i)))
        assert c["p_holm"] == pytest.approx(low)
    # Without the correction some of these would be called.
    assert any(c["p"] < 0.05 and c["p_holm"] >= 0.05 and c["verdict"] == stats.SAME for c in ours)


def test_alpha_bounds_the_chance_of_a_false_verdict():
    """2 % under noise of 1 %: called at the usual alpha, not at a strict one; the interval stays."""
    record = make({"stock": 1, "arm": 1.02}, noise=0.005, rounds=12)
    usual = compute(record)["comparisons"]
    record["plan"]["alpha"] = 1e-9
    strict = compute(record)["comparisons"]
    assert {c["verdict"] for c in usual} == {stats.FASTER} and {c["verdict"] for c in strict} == {stats.SAME}
    assert [(c["low"], c["high"]) for c in strict] == [(c["low"], c["high"]) for c in usual]


def test_an_effect_below_the_noise_of_the_baseline_does_not_count():
    """A steady 5 % in every pair, while the machine swings by 30 % from one round to the next."""
    record = make({"stock": 1, "arm": 1.05}, noise=0.002)
    assert set(verdicts(record).values()) == {stats.FASTER}
    for m in record["measurements"]:
        swing = 1.3 if m["round"] % 2 else 1
        for key in ("ttft_s", "tpot_s", "itl_s"):
            m[key] = [x * swing for x in m[key]]
        m["total_tok_s"] /= swing
    found = compute(record)
    assert {c["verdict"] for c in found["comparisons"]} == {stats.SAME}
    assert all(c["p_holm"] < 0.01 and c["noise_floor"] > 1.3 for c in found["comparisons"])
    assert {n["pairs"] for n in found["noise"]} == {3}


def test_two_starts_of_one_arm_differ_where_each_is_started_once():
    """A steady 1.5 % is called between servers that were started anew, and not between two that stayed up."""
    for factor, once in ((1.015, stats.SAME), (1 / 1.015, stats.SAME), (1.03, stats.FASTER)):
        record = make({"stock": 1, "arm": factor}, noise=0.001, rounds=8)
        assert set(verdicts(record).values()) == {stats.FASTER if factor > 1 else stats.SLOWER}
        record["plan"]["together"] = True
        found = compute(record)["comparisons"]
        assert {(c["verdict"], round(c["noise_floor"], 6)) for c in found} == {(once, stats.START)}
    for m in record["measurements"]:
        m["ttft_s"] = [x * (1.3 if m["round"] % 2 else 1) for x in m["ttft_s"]]
    found = [c for c in compute(record)["comparisons"] if c["metric"] == "ttft"]
    assert all(c["noise_floor"] > 1.3 for c in found), "the larger one counts"


def test_the_noise_floor_is_the_baselines_interval_about_no_change():
    record = make({"stock": 1}, rounds=4, noise=0)
    for m in record["measurements"]:
        m["ttft_s"] = [[1.0, 1.1, 2.0, 1.9][m["round"]]]
    rms = math.sqrt((math.log(1.1) ** 2 + math.log(1.9 / 2) ** 2) / 2)
    student = 4.302652729911275  # table value, 97.5 %, 2 degrees of freedom
    found = [n for n in compute(record)["noise"] if n["metric"] == "ttft"]
    assert [n["half_width"] for n in found] == pytest.approx([student * rms / math.sqrt(2)] * 3)
    assert compute(record)["comparisons"] == []


@pytest.mark.parametrize("rounds,pairs", [(1, 1), (2, 2)])
def test_too_few_pairs_give_no_verdict_however_large_the_effect(rounds, pairs):
    found = compute(make({"stock": 1, "arm": 4}, rounds=rounds))["comparisons"]
    assert {(c["pairs"], c["verdict"], c["p_holm"]) for c in found} == {(pairs, stats.TOO_FEW, None)}
    assert all((c["low"] is None) == (pairs == 1) and c["speedup"] > 3 for c in found)


def test_refusals_blank_every_verdict():
    record = make({"stock": 1, "arm": 2}) | {"refusals": ["arm arm: no HISA receipt"]}
    found = compute(record)
    assert {c["verdict"] for c in found["comparisons"]} == {None}
    assert found["verdicts"] == {"arm": None}


@pytest.mark.parametrize("broken", [{"completed": 1}, {"errors": ["timeout"]}, {"ttft_s": []}])
def test_a_measurement_with_failed_requests_makes_no_pair(broken):
    record = make({"stock": 1, "arm": 2}, cells=CELLS[:1])
    next(m for m in record["measurements"] if m["arm"] == "arm" and m["round"] == 3).update(broken)
    found = {c["metric"]: c["pairs"] for c in compute(record)["comparisons"]}
    assert found["ttft"] == 5
    assert found["throughput"] == (6 if "ttft_s" in broken else 5)


def test_rounds_pair_with_the_same_round_only():
    """One arm lacks round 0, the other round 5: four rounds are common, and drift cancels in each."""
    record = make({"stock": 1, "arm": 2}, noise=0)
    gone = {("stock", 0), ("arm", 5)}
    record["measurements"] = [m for m in record["measurements"] if (m["arm"], m["round"]) not in gone]
    for m in record["measurements"]:
        m["ttft_s"] = [x * 3 ** m["round"] for x in m["ttft_s"]]
    found = [c for c in compute(record)["comparisons"] if c["metric"] == "ttft"]
    assert {c["pairs"] for c in found} == {4}
    assert [r for c in found for r in c["ratios"]] == pytest.approx([2] * 12)
