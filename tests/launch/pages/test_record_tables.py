"""Tables of the stress and acceptance records: odd records, and the kept ones counted in another way."""

import json
import math
import re
from dataclasses import replace
from statistics import mean, median

import pytest
from scipy.stats import ttest_1samp

from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.acceptance.cases import CASES
from sglang_hisa.launch.acceptance.chunks import CHUNKS
from sglang_hisa.launch.acceptance.pd import SIDES
from sglang_hisa.launch.acceptance.ranks import RANKS
from sglang_hisa.launch.acceptance.record import CaseRow, Facts, KeptReceipt
from sglang_hisa.launch.acceptance.stress.record import StressRow
from sglang_hisa.launch.common import text
from sglang_hisa.launch.common.provenance import Provenance, together
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.pages import ab_tables, case_tables, stress_tables, supported, tables
from sglang_hisa.launch.pages.coverage import CASE_RECORDS, existing
from sglang_hisa.launch.pages.reader import Reader
from sglang_hisa.patches.releases import NEWEST, OLDEST

RESULTS = tables.ROOT / "launch/results"
REFUSED = "HTTPError: HTTP Error 400: Bad Request; exit code None"
OFF = "stress --cuda-graph-backend-prefill disabled"


def table_of(name):
    """A table without the note on the flags of its servers."""
    return tables.TABLES[name](Reader())


def played(test, minutes, *, arm="paper", model="m|1", command=OFF, commit="43da4bff9be3", **more):
    row = {"test": test, "arm": arm, "model": model, "minutes": minutes, "rounds": 2, "requests": 1000}
    row |= {"canary_pages_checked": 5000, "violations": 0, "retractions": 3, "pages_rebuilt": 7}
    where = {"commit": commit, "command": command}
    return read(StressRow, {**row, "problems": [], "facts": {}, "provenance": where, **more})


def by(table, *names):
    """Rows of a table as dictionaries, by the cells of the named columns."""
    head, rows = table
    assert all(len(row) == len(head) for row in rows)
    found = {tuple(row[head.index(name)] for name in names): dict(zip(head, row)) for row in rows}
    assert len(found) == len(rows)
    return found


def test_calls_of_one_scene_are_one_row_with_their_options():
    rows = [
        played("retract", 1.24),
        played("retract", 0.5, command=f"{OFF} --jitter=2 --enable-hierarchical-cache"),
        played("radix", 2.0, command="stress --jitter 0.5"),
        played("retract", 0.11),
    ]
    found = by(stress_tables.scenes(rows), "scene")
    assert list(found) == [("radix",), ("retract",), ("**all**",)], "scenes in their order"
    one = found["retract",]
    assert one["server minutes"] == "1.9 (0.5 with HiCache and delays up to 2 ms)"
    assert (one["requests"], one["summaries checked"], one["wrong"]) == ("3,000", "15,000", "0")
    assert (one["retractions"], one["pages rebuilt"], one["problems"]) == ("9", "21", "–")
    minutes = "2.0 (2.0 with delays up to 0.5 ms and prefill graphs)"
    assert found["radix",]["server minutes"] == minutes
    total = found["**all**",]
    assert (total["server minutes"], total["requests"], total["problems"]) == ("3.9", "4,000", "–")


def test_problems_and_wrong_summaries_show():
    rows = [
        played("warm", 1.0, arm="stock", canary_pages_checked=0),
        played("warm", 1.0, problems=[REFUSED]),
        played("warm", 1.0, problems=[REFUSED, "3 of 24 tokens: *abort*"], violations=12),
        played("warm", 1.0, model="other", problems=[REFUSED]),
    ]
    found = by(stress_tables.scenes(rows), "model", "arm")
    assert list(found) == [("m|1", "`paper`"), ("other", "`paper`"), ("m|1", "`stock`"), ("", "")]
    one = found["m|1", "`paper`"]
    assert one["problems"] == f"2 × {REFUSED}; 3 of 24 tokens: \\*abort\\*" and one["wrong"] == "**12**"
    assert found["other", "`paper`"]["problems"] == REFUSED
    stock = found["m|1", "`stock`"]
    assert (stock["summaries checked"], stock["wrong"], stock["requests"]) == ("–", "–", "1,000")
    assert (found["", ""]["problems"], found["", ""]["wrong"]) == ("4", "**12**")


def test_kl_is_the_largest_of_the_calls_and_stock_may_be_missing():
    def asked(warm, cold, **more):
        return played("warm", 1.0, facts={"kl_warm_cold": warm, "kl_cold_cold": cold}, **more)

    rows = [
        asked(0.0, 2e-7),
        asked(3e-5, 0.0),
        played("warm", 0.0),
        asked(0, 0, model="x"),
        played("radix", 1),
    ]
    found = by(stress_tables.warm(rows), "model", "arm")
    assert list(found) == [("m|1", "`paper`"), ("x", "`paper`")]
    assert list(found["m|1", "`paper`"].values())[2:] == ["4", "3.0e-05", "2.0e-07"]
    assert list(found["x", "`paper`"].values())[2:] == ["2", "0", "0"]


def test_kl_has_a_mean_over_all_rounds_where_the_calls_have_theirs():
    def asked(rounds, warm, cold):
        facts = {"kl_warm_cold": 4 * warm, "kl_cold_cold": 4 * cold}
        means = {"kl_warm_cold": warm, "kl_cold_cold": cold}
        return played("warm", 1.0, facts=facts, means=means, rounds=rounds)

    found = by(stress_tables.warm([asked(10, 1e-4, 0.0), asked(30, 3e-4, 0.0)]), "model", "arm")
    assert list(found["m|1", "`paper`"].values())[2:] == ["40", "1.2e-03, mean 2.5e-04", "0"]


def test_minutes_that_are_wanted_are_told_until_they_are_there():
    assert stress_tables.left([played("radix", 20.5)]) == "20.5 of the 30 server minutes that are wanted."
    assert stress_tables.left([played("radix", 20.0), played("abort", 10.0)]) == ""


def test_the_kept_stress_record_is_counted_whole():
    """The columns below each other add up to the last row, and that to the record."""
    record = json.loads((RESULTS / "stress-h100.json").read_text())
    head, rows = stress_tables.scenes([read(StressRow, row) for row in record["rows"]])
    *lines, total = (line.split(" | ") for line in text.table(head, rows).splitlines()[2:])
    keys = ("requests", "canary_pages_checked", "violations", "retractions", "pages_rebuilt")
    for at, key in enumerate(keys, start=4):
        column = [int(re.sub(r"\D", "", line[at]) or 0) for line in lines]
        assert sum(column) == int(re.sub(r"\D", "", total[at])) == sum(row[key] for row in record["rows"])
    assert len(lines) == len({(row["test"], row["model"], row["arm"]) for row in record["rows"]})


def receipt(checks, violations=0, decode=0.5, **rebuilt):
    share = {"prefill": None, "decode": decode}
    kept = {"canary_checks": checks, "violations": violations, "candidate_share": share}
    return KeptReceipt(**kept, summary_rebuilds=rebuilt)


def shown(case, problems=(), **facts):
    return CaseRow(case=case, shows="something", facts=Facts(**facts), problems=tuple(problems))


def test_cases_are_rows_with_the_sums_of_their_ranks():
    ranks = [receipt(1000, decode=0.25, hicache_load=40), receipt(2345, decode=0.333, hicache_load=2)]
    both = {"ranks": tuple(ranks), "hisa_equals_stock": 0.98, "stock_repeats": 0.96, "requests": 48}
    parted = {"equals_stock_within": 0.9, "gap_nats": 0.01234, "requests": 20}
    rows = [
        shown("pd-both", **parted, prefill=receipt(7), decode=receipt(8, 3)),
        shown("dp2", tokens_from_host=12345, **both),
        shown("pd-stock", equals_stock_within=1.0, equals_alone_beyond=0.5, requests=20),
        shown("ranks-same", calls=1234, calls_that_differ=0, receipt=receipt(9)),
    ]
    found = {name: list(row.values())[2:] for (name,), row in by(case_tables.cases(rows), "case").items()}
    assert list(found) == ["`dp2`", "`pd-stock`", "`pd-both`", "`ranks-same`"], "in the order of the cases"
    seen = "12,345 tokens back from the host; 42 summaries rebuilt"
    assert found["`dp2`"] == ["98% (stock again: 96%)", "48", "–", "0.33", "3,345", "0", seen]
    apart = "where answers part from stock's, 0.012 nats between the two tokens"
    assert found["`pd-both`"] == ["90%", "20", "–", "0.50", "15", "**3**", apart]
    alone = "beyond the budget 50% of one server's tokens"
    assert found["`pd-stock`"] == ["100%", "20", "–", "–", "–", "–", alone], "no HISA, no canary"
    chose = "1,234 calls of the indexer; the same choices on both ranks"
    assert found["`ranks-same`"][4:] == ["9", "0", chose]


def test_times_and_memory_of_the_longest_context():
    facts = {"stock_ttft_s": 46.02, "hisa_ttft_s": 20.0, "stock_itl_ms": 3.41, "hisa_itl_ms": 2.9}
    facts |= {"summary_mib": 4.13, "kv_tokens": 1048576}
    _, (row,) = case_tables.cases([shown("1m", **facts)])
    assert row[-1] == (
        "4.1 MiB of summaries; for 1,048,576 tokens of KV cache; first token of stock after 46.0 s; "
        "of HISA after 20.0; each more after 3.4 ms; of HISA, canary included, after 2.9"
    )


def test_a_case_that_failed_says_why():
    _, (row,) = case_tables.cases([shown("mtp", ["Failed: _x_"])])
    assert row[2:] == [*["–"] * 6, "**not right**: Failed: \\_x\\_"]


@pytest.mark.parametrize("path", existing(*CASE_RECORDS))
def test_each_case_is_in_the_page_or_named_as_not_run(path):
    """Read from the rendered page, not from the functions that make it."""
    page = supported.render().split("## Cases on GPUs")[1].split("## Patched")[0]
    (part,) = [
        part for part in re.split(r"^On (?=one GPU|\d GPUs)", page, flags=re.MULTILINE) if path in part
    ]
    rows, gpus = json.loads((tables.ROOT / path).read_text())["rows"], CASE_RECORDS[path].gpus
    run = set(re.findall(r"^\| `([\w-]+)` \|", part, re.MULTILINE))
    missing = set(re.findall(r"`([\w-]+)`", "".join(re.findall(r"Not run yet: (.*)", part))))
    releases = {row["provenance"]["sglang"] for row in rows}
    assert f"SGLang {', '.join(releases)}:" in part.splitlines()[0] and len(releases) == 1
    wanted = {n for n, case in CASES.items() if case.gpus == gpus and releases & set(case.versions)}
    wanted |= {name for name, (_, count, _) in CHUNKS.items() if count == gpus}
    assert run == {row["case"] for row in rows} and not run & missing
    assert run | missing == wanted | ({*SIDES, *RANKS} if gpus == 2 else set())
    assert part.count("**not right**") == sum(bool(row["problems"]) for row in rows)


def test_a_record_lacks_only_what_its_sglang_has():
    old, new = (set(case_tables.left([shown("plain")], 1, [release])) for release in (OLDEST, NEWEST))
    assert old - new == {"prefill-piecewise"} and new - old == {"lora", "keyless-layers", "keyless-hicache"}


def test_minutes_of_servers_side_by_side():
    """Three at once for a while, a pause, and one alone: 2 minutes and 1 by the clock."""
    times = [("00:00", 1.5), ("00:30", 1.5), ("01:00", 0.25), ("05:00", 1.0)]
    rows = [
        replace(played("radix", m), provenance=Provenance(date=f"2026-11-29T12:{t}+00:00")) for t, m in times
    ]
    assert stress_tables.side_by_side(rows).startswith(
        "These 4.2 minutes of servers are 3.0 by the clock: up to 3 of them ran side by side on the GPU"
    )


def test_one_provenance_of_rows_that_differ():
    def made(commit, date):
        where = {"gpu": "NVIDIA H100 80GB HBM3", "sglang": "0.5.17", "torch": "2.11.0"}
        return Provenance(**where, commit=commit, date=date)

    rows = [made("b", "2026-11-25T01:00"), made("a", "2026-11-26T01:00"), made("b", "2026-11-24T01:00")]
    line = text.source(together(rows), "../launch/x.json", 2)
    assert line == (
        "<sub>2 × NVIDIA H100 80GB HBM3, SGLang 0.5.17, torch 2.11.0, commit b, a, 2026-11-26; "
        "[`launch/x.json`](../launch/x.json)</sub>"
    )


def test_the_two_gpu_table_is_that_of_its_report():
    """Reckoned once more from the samples, by SciPy's own t-test."""
    record = json.loads((RESULTS / "ab-v32-4l-tp2.json").read_text())

    def speedup(metric):
        logs = []
        for index in range(record["plan"]["rounds"]):
            seen = {m["arm"]: median(m[metric]) for m in record["measurements"] if m["round"] == index}
            logs.append(math.log(seen["stock"] / seen["paper"]))
        low, high = ttest_1samp(logs, 0).confidence_interval(0.95)
        return f"{math.exp(mean(logs)):.2f}× [{math.exp(low):.2f}, {math.exp(high):.2f}]"

    made = table_of("ab_tp2")
    assert f"| **{speedup('ttft_s')}** |" in made and f"| {speedup('itl_s')} |" in made
    assert "<sub>2 × NVIDIA H100" in made


@pytest.mark.parametrize(("verdict", "bold"), [(stats.SLOWER, 1), (stats.SAME, 0), (stats.TOO_FEW, 0)])
def test_only_a_difference_that_was_seen_is_bold(verdict, bold):
    record = json.loads((RESULTS / "ab-v32-4l-tp2.json").read_text())
    for one in record["stats"]["comparisons"]:
        one["verdict"] = verdict if one["metric"] == "ttft" else stats.SAME
    _, (row,) = ab_tables.medians(read(AbRecord, record))
    assert "".join(row).count("**") == 2 * bold


def test_too_few_pairs_have_a_speed_up_without_an_interval_and_the_baseline_is_named():
    """A run of one round, and one whose baseline is not stock."""
    line = next(line for line in table_of("ab_busy").splitlines() if line.startswith("| 128K × 4"))
    made = json.loads((RESULTS / "ab-defaults-four.json").read_text())
    last = len(made["plan"]["cells"]) - 1
    seen = {r["arm"]: r["ttft_s"] for r in made["measurements"] if r["cell"] == last and r["round"] == 0}
    assert re.findall(r"(\d\.\d\d)×", line)[0] == f"{median(seen['stock']) / median(seen['paper']):.2f}"
    assert "[" not in line and "*" not in line
    assert table_of("watching").startswith("| prompt × at once | TTFT, `paper` | `watching` | ITL, `paper` |")


def test_prompts_of_a_server_count_from_its_start():
    """As many first prompts as the record has starts of servers that came to be measured."""
    made = table_of("ab_256k")
    rows = [line.split(" | ") for line in made.splitlines() if line.startswith("| ")][2:]
    at = 0
    for file in re.findall(r"results/(ab-[\w-]+\.json)\)", made):
        kept = json.loads((RESULTS / file).read_text())
        mine = rows[at : at + len(kept["measurements"])]
        at += len(mine)
        measured = {one["arm"] for one in kept["measurements"]}
        starts = sum(len(kept["arms"][arm]["starts_s"]) for arm in measured)
        assert sum(row[3] == "1" for row in mine) == starts
    assert at == len(rows)


def test_answers_by_the_dense_end_add_up():
    head, _, *lines = (line for line in table_of("tail").splitlines() if line.startswith("|"))
    arms = head.split("|")[3:-1]
    kept = json.loads((RESULTS / "quality-tail.json").read_text())["answers"]
    of = {arm: [a["right"] for a in kept if a["arm"] == arm.strip(" `")] for arm in arms}
    want = [f" {sum(right)} of {len(right)} " for right in of.values()]
    assert lines[-1].split("|")[3:-1] == want and len(want) == 5
