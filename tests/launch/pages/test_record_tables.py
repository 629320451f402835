"""Tables of the stress and acceptance records: odd records, and the kept ones counted in another way."""

import json
import re
from dataclasses import replace

import pytest

from sglang_hisa.launch.acceptance.cases import CASES
from sglang_hisa.launch.acceptance.chunks import CHUNKS
from sglang_hisa.launch.acceptance.pd import SIDES
from sglang_hisa.launch.acceptance.ranks import RANKS
from sglang_hisa.launch.acceptance.record import CaseRow, Facts, KeptReceipt
from sglang_hisa.launch.acceptance.stress.record import StressRecord, StressRow
from sglang_hisa.launch.common import text
from sglang_hisa.launch.common.provenance import Provenance, together
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.pages import case_tables, stress_tables, supported, tables
from sglang_hisa.launch.pages.coverage import CASE_RECORDS, existing
from sglang_hisa.patches.releases import NEWEST, OLDEST
from tests.launch.pages.markdown import tables_of

RESULTS = tables.ROOT / "launch/results"
REFUSED = "HTTPError: HTTP Error 400: Bad Request; exit code None"
OFF = "stress --cuda-graph-backend-prefill disabled"


def played(test, minutes, *, arm="paper", model="m", command=OFF, commit="43da4bff9be3", **more):
    row = {"test": test, "arm": arm, "model": model, "minutes": minutes, "rounds": 2, "requests": 1000}
    row |= {"canary_pages_checked": 5000, "violations": 0, "retractions": 3, "pages_rebuilt": 7}
    where = {"commit": commit, "command": command, "date": "2026-11-29T12:00:00+00:00"}
    return read(StressRow, {**row, "problems": [], "facts": {}, "provenance": where, **more})


def by(table, *names):
    """Rows of a table as dictionaries, by the cells of the named columns."""
    head, rows = table
    assert all(len(row) == len(head) for row in rows)
    found = {tuple(row[head.index(name)] for name in names): dict(zip(head, row)) for row in rows}
    assert len(found) == len(rows)
    return found


def stressed(rows, *names):
    """The same of the table of stress rows."""
    (made,) = tables_of(stress_tables.stress(StressRecord(rows=tuple(rows))))
    return by(([*made[0]], [[*row.values()] for row in made]), *names)


def test_calls_of_one_scene_are_a_row_for_each_of_their_options():
    rows = [
        played("retract", 1.24),
        played("retract", 0.5, command=f"{OFF} --jitter=2 --enable-hierarchical-cache"),
        played("radix", 2.0, command="stress --jitter 0.5"),
        played("retract", 0.11),
    ]
    found = stressed(rows, "scene", "with")
    delayed = ("retract", "HiCache, delays up to 2 ms")
    graphs = ("radix", "delays up to 0.5 ms, prefill graphs")
    assert list(found) == [graphs, ("retract", ""), delayed, ("**all**", "")], "scenes in their order"
    one = found["retract", ""]
    assert (one["server minutes"], one["requests"], one["summaries checked"]) == ("1.4", "2,000", "10,000")
    assert (one["wrong"], one["retractions"], one["pages rebuilt"], one["problems"]) == ("0", "6", "14", "–")
    assert (found[delayed]["server minutes"], found[graphs]["requests"]) == ("0.5", "1,000")
    total = found["**all**", ""]
    assert (total["server minutes"], total["requests"], total["problems"]) == ("3.9", "4,000", "–")


def test_problems_and_wrong_summaries_show():
    rows = [
        played("warm", 1.0, arm="stock", canary_pages_checked=0),
        played("warm", 1.0, problems=[REFUSED]),
        played("warm", 1.0, problems=[REFUSED, "3 of 24 tokens: *abort*"], violations=12),
        played("warm", 1.0, model="other", problems=[REFUSED]),
    ]
    found = stressed(rows, "model", "arm")
    assert list(found) == [("m", "`paper`"), ("other", "`paper`"), ("m", "`stock`"), ("", "")]
    one = found["m", "`paper`"]
    assert one["problems"] == f"2 × {REFUSED}; 3 of 24 tokens: \\*abort\\*" and one["wrong"] == "**12**"
    assert found["other", "`paper`"]["problems"] == REFUSED
    stock = found["m", "`stock`"]
    assert (stock["summaries checked"], stock["wrong"], stock["requests"]) == ("–", "–", "1,000")
    assert found["", ""]["problems"].startswith(f"3 × {REFUSED}; 3 of") and found["", ""]["wrong"] == "**12**"


def test_kl_is_the_mean_over_all_rounds_of_the_scene_that_asks_for_it():
    def asked(rounds, warm, cold, scene="warm", **more):
        means = {"kl_warm_cold": warm, "kl_cold_cold": cold}
        return played(scene, 1.0, means=means, rounds=rounds, **more)

    rows = [asked(10, 1e-4, 0.0), asked(30, 3e-4, 0.0), played("warm", 0.0, model="old"), played("radix", 1)]
    seen = {
        key: row["KL, full to empty cache (empty to empty)"]
        for key, row in stressed(rows, "scene", "model").items()
    }
    assert seen == {
        **{("radix", "m"): "–", ("warm", "m"): "2.5e-04 (0.0e+00)"},
        **{("warm", "old"): "–", ("**all**", ""): "–"},
    }


def test_the_kept_stress_record_is_counted_whole():
    """The columns below each other add up to the last row, and that to the record."""
    rows = json.loads((RESULTS / "stress-h100.json").read_text())["rows"]
    *lines, total = stressed([read(StressRow, row) for row in rows], "scene", "arm", "with").values()
    keys = {
        "summaries checked": "canary_pages_checked",
        "wrong": "violations",
        "pages rebuilt": "pages_rebuilt",
    }
    for head, key in (keys | {"requests": "requests", "retractions": "retractions"}).items():
        column = [int(re.sub(r"\D", "", line[head]) or 0) for line in lines]
        assert sum(column) == int(re.sub(r"\D", "", total[head])) == sum(row[key] for row in rows)
    assert total["server minutes"] == f"{sum(row['minutes'] for row in rows):.1f}"


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


def test_eight_gpus_have_rows_of_their_own_once_they_ran():
    """Cases of eight ranks and the whole model come after those of one and two GPUs."""
    _, rows = case_tables.cases([shown("whole-tp8-paper"), shown("tp8"), shown("plain")])
    assert [row[0] for row in rows] == ["`plain`", "`whole-tp8-paper`", "`tp8`"]
    missing = case_tables.left([shown("tp8")], 8, [NEWEST])
    assert {"dp8", "whole-dp8-balanced", "pd-both", "ranks-same"} <= {*missing} and "tp8" not in missing
    assert not {*missing} & {"tp2", "plain"}


def test_minutes_of_servers_side_by_side():
    """Three at once for a while, a pause, and one alone: 2 minutes and 1 by the clock."""
    times = [("00:00", 1.5), ("00:30", 1.5), ("01:00", 0.25), ("05:00", 1.0)]
    rows = [
        replace(played("radix", m), provenance=Provenance(date=f"2026-11-29T12:{t}+00:00")) for t, m in times
    ]
    said = "These 4.2 minutes of servers are 3.0 by the clock: up to 3 of them ran side by side"
    assert stress_tables.by_the_clock(rows).startswith(said)


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
