"""The tables of A/Bs: of kept records, counted in another way, and of comparisons that are given."""

import json
import math
import re
from statistics import mean, median

import pytest
from scipy.stats import ttest_1samp

from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.ab.plan import parse_cells
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.pages import ab_tables, tables
from sglang_hisa.launch.pages.reader import RESULTS

STOCK = {1: 12.8, 16: 15.8, 64: 25.5, 128: None}
PAPER = {1: 12.3, 16: 13.4, 64: 15.5, 128: 24.0}


def kept(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def given(cells, verdict=stats.FASTER):
    """A record whose arms take ``STOCK`` and ``PAPER`` ms a token, and 10 and 5 s to the first one."""
    plan = parse_cells(cells, 64, 1)

    def of(at, cell, metric):
        base, own = STOCK[cell.concurrency], PAPER[cell.concurrency]
        times = {
            "ttft": (10, 5),
            "itl": (base and base / 1e3, own / 1e3),
            "steady_itl": (base and base / 1e3, own / 1e3),
            "steady_throughput": (base and cell.concurrency / base * 1e3, cell.concurrency / own * 1e3),
        }
        base, own = times[metric]
        ratio = base and (own / base if "through" in metric else base / own)
        bounds = {"low": ratio and ratio - 0.01, "high": ratio and ratio + 0.01}
        medians = {"baseline_median": base, "arm_median": own, "speedup": ratio}
        return {"arm": "paper", "cell": at, "metric": metric, **medians, **bounds, "verdict": verdict}

    comparisons = [
        of(at, cell, metric)
        for at, cell in enumerate(plan)
        for metric in (stats.STEADY if cell.prefix_tokens else ("ttft", "itl"))
    ]
    made = kept("ab-many")
    made["plan"] |= {"arms": ["stock", "paper"], "baseline": "stock", "cells": [vars(one) for one in plan]}
    made |= {"measurements": [], "stats": {**made["stats"], "comparisons": comparisons}}
    return read(AbRecord, made)


def many(cells, verdict=stats.FASTER):
    return ab_tables.many(given(cells, verdict))


def test_loads_are_in_order_whatever_was_measured_first():
    lines = many("128k+64:64,1,16").splitlines()
    assert lines[0] == "| shared prefix × at once | ITL, stock | `paper` | tok/s, stock | `paper` |"
    assert lines[2:5] == [
        "| 128K × 1 | 12.8 ms | **1.04× [1.03, 1.05]** | 78 | 81 |",
        "| 128K × 16 | 15.8 ms | **1.18× [1.17, 1.19]** | 1,013 | 1,194 |",
        "| 128K × 64 | 25.5 ms | **1.65× [1.64, 1.66]** | 2,510 | 4,129 |",
    ]
    assert "**" not in many("128k+64:64", stats.SAME)


def test_requests_within_the_limit_and_their_ratio():
    """20 ms: 36.8 requests of stock, and of paper on the line from 64 (15.5 ms) to 128 (24.0 ms) 97.9."""
    text = many("128k+64:64,1,16,128")
    assert "| 128K | 37 | 98 (2.7×) |" in text and "within 20 ms a token" in text
    assert "128K × 128" not in text, "stock has no valid window there"
    assert "| 128K | 37 | at least 64 (at least 1.7×) |" in many("128k+64:64,16")
    assert "within" not in many("128k+64:64"), "one load has no line"
    assert "within" not in many("128k+64:64,128"), "nor has one that was measured"


def test_one_run_of_single_prompts_and_of_many_requests_is_two_tables():
    record = given("8k:1 128k:1 128k+64:64,16,1 8k:16")
    lines = ab_tables.medians(record).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 8K × 1", "| 8K × 16", "| 128K × 1"]
    assert lines[2] == "| 8K × 1 | 10.00 s | **2.00× [1.99, 2.01]** | 12.8 ms | **1.04× [1.03, 1.05]** |"
    assert ab_tables.many(record) == many("128k+64:64,16,1")
    assert ab_tables.many(given("8k:1")) == "" and ab_tables.medians(given("128k+64:1")) == ""


def test_the_headline_is_of_single_prompts_and_of_many_requests():
    ((_, records),) = tables.TABLES["headline"]("")
    made, shared = map(kept, records)
    made["plan"]["cells"][1]["concurrency"] = 4
    lines = ab_tables.headline(read(AbRecord, made), read(AbRecord, shared)).splitlines()
    assert [line.split(" | ")[0] for line in (lines[0], *lines[2:])] == [
        "| time to",
        "| first token of one prompt of 8K",
        "| first token of one prompt of 128K",
        *(f"| each token of {count} requests that share 128K" for count in (16, 64, 128)),
    ]
    for cell, line in ((0, lines[2]), (2, lines[3])):
        seen = {arm: median(by_arm(made, arm, cell)) for arm in ("stock", "balanced")}
        assert f" | {seen['stock']:.1f} s | {seen['balanced']:.1f} s (" in line


def test_the_headline_of_decode_steps_is_that_of_many_requests():
    shared = given("8k:1 128k+64:16,64,1")
    lines = ab_tables.headline(given("32k:1"), shared).splitlines()[-3:]
    assert lines.pop(0).startswith("| first token of one prompt of 32K |")
    for count, line in zip((16, 64), lines, strict=True):
        said = f"{STOCK[count]:.1f} ms | {PAPER[count]:.1f} ms ({STOCK[count] / PAPER[count]:.2f}×) |"
        assert line == f"| each token of {count} requests that share 128K | {said}"
    assert ab_tables.headline(given("8k:16"), given("8k:1 128k+64:1")) == ""
    with pytest.raises(ValueError):
        ab_tables.headline(given("8k:1"), read(AbRecord, kept("ab-many")))


def by_arm(record, arm, cell):
    """The median TTFT of each round."""
    return [median(m["ttft_s"]) for m in record["measurements"] if (m["arm"], m["cell"]) == (arm, cell)]


def test_the_two_gpu_table_is_that_of_its_report():
    """Reckoned once more from the samples, by SciPy's own t-test."""
    record = kept("ab-v32-4l-tp2")

    def speedup(metric):
        logs = []
        for index in range(record["plan"]["rounds"]):
            seen = {m["arm"]: median(m[metric]) for m in record["measurements"] if m["round"] == index}
            logs.append(math.log(seen["stock"] / seen["paper"]))
        low, high = ttest_1samp(logs, 0).confidence_interval(0.95)
        return f"{math.exp(mean(logs)):.2f}× [{math.exp(low):.2f}, {math.exp(high):.2f}]"

    made = tables.made("ab", "v32-4l, TP 2")
    assert f"| **{speedup('ttft_s')}** |" in made and f"| {speedup('itl_s')} |" in made
    assert "<sub>2 × NVIDIA H100" in made and made.count("| 128K × 1 |") == 1


@pytest.mark.parametrize(("verdict", "bold"), [(stats.SLOWER, 1), (stats.SAME, 0), (stats.TOO_FEW, 0)])
def test_only_a_difference_that_was_seen_is_bold(verdict, bold):
    record = kept("ab-v32-4l-tp2")
    for one in record["stats"]["comparisons"]:
        one["verdict"] = verdict if one["metric"] == "ttft" else stats.SAME
    assert ab_tables.medians(read(AbRecord, record)).count("**") == 2 * bold


def test_too_few_pairs_have_a_speed_up_without_an_interval_and_the_baseline_is_named():
    """A run of one round, and one whose baseline is not stock."""
    made = kept("ab-defaults-four")
    line = ab_tables.medians(read(AbRecord, made)).splitlines()[-1]
    last = len(made["plan"]["cells"]) - 1
    seen = {r["arm"]: r["ttft_s"] for r in made["measurements"] if r["cell"] == last and r["round"] == 0}
    assert line.startswith("| 128K × 4 |")
    assert re.findall(r"(\d\.\d\d)×", line)[0] == f"{median(seen['stock']) / median(seen['paper']):.2f}"
    assert "[" not in line and "*" not in line
    made = tables.made("ab", "v32-tp8-rank against paper")
    assert made.startswith("| prompt × at once | TTFT, `paper` | `watching-canary` | ITL, `paper` |")


def test_a_run_that_was_cut_off_shows_what_it_has():
    made = kept("ab-defaults")
    for one in made["stats"]["comparisons"]:
        if one["cell"] == 2:
            one |= dict.fromkeys(("baseline_median", "arm_median", "speedup", "low", "high"))
        if one["cell"] == 1 and one["arm"] == "paper":
            one |= dict.fromkeys(("arm_median", "speedup", "low", "high"))
    lines = ab_tables.medians(read(AbRecord, made)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 8K × 1", "| 32K × 1"]
    assert lines[3].split(" | ")[2] == "–" and "×" in lines[3].split(" | ")[3]
