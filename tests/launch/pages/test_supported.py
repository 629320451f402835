"""The matrix of docs/supported.md: its evidence exists, and what it says of a version follows from it."""

import ast
import json

import pytest

from sglang_hisa.launch.acceptance.cases import CASES
from sglang_hisa.launch.acceptance.chunks import CHUNKS
from sglang_hisa.launch.acceptance.pd import SIDES
from sglang_hisa.launch.acceptance.ranks import RANKS
from sglang_hisa.launch.common.record import Record, load
from sglang_hisa.launch.pages import coverage, evidence, supported, tables
from sglang_hisa.launch.pages.coverage import COVERAGE, Coverage
from sglang_hisa.launch.pages.evidence import cell
from sglang_hisa.patches.releases import NEWEST, OLDEST, RELEASES

RECORD = "launch/results/h100-serve.json"


def functions(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", COVERAGE, ids=lambda row: f"{row.model}: {row.feature}")
def test_evidence_exists(row):
    for shown in row.evidence:
        path, _, function = shown.partition("::")
        assert (tables.ROOT / path).is_file()
        if function:
            assert function in functions(tables.ROOT / path)
            continue
        assert load(tables.ROOT / path, Record).provenance.sglang in row.versions
        if not path.endswith(".json"):
            text = (tables.ROOT / path).read_text()
            end = text.splitlines()[-1]
            assert " passed" in end and "failed" not in end and "error" not in end
            assert any(f"{test.partition('::')[0]} ." in text for test in row.evidence if "::" in test)
    assert set(row.versions) <= set(RELEASES) and row.versions
    assert row.evidence or not row.declined, "a refusal has a test"


def test_records_count_for_their_own_version_and_tests_for_all():
    assert cell(Coverage("m", "f", (RECORD,)), OLDEST) == "served: H100"
    assert cell(Coverage("m", "f", (RECORD,)), NEWEST) == "served, not run"
    tests = Coverage("m", "f", ("launch/results/tests-h100.txt",))
    assert cell(tests, OLDEST) == "served: H200" and cell(tests, NEWEST) == "served, not run"
    assert cell(Coverage("m", "f", ("tests/a.py::b", RECORD)), OLDEST) == "served: unit test, H100"
    assert cell(Coverage("m", "f", ("tests/a.py::b", "tests/server/a.py::b")), NEWEST) == "served: CPU server"
    assert cell(Coverage("m", "f", ("tests/a.py::b",), (NEWEST,)), OLDEST) == "–"
    assert cell(Coverage("m", "f", ("tests/a.py::b",), declined="so"), NEWEST) == "declined"


def test_cases_count_where_all_of_a_row_were_right(tmp_path, monkeypatch):
    def one(case, gpu="NVIDIA H100 80GB HBM3", version=OLDEST, problems=()):
        where = {"gpu": gpu, "sglang": version}
        return {"case": case, "shows": "it", "problems": list(problems), "provenance": where}

    for module in (coverage, evidence):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    row = Coverage("m", "f", (), cases=("tp2", "dp2"))
    assert cell(row, OLDEST) == "served, not run", "no record yet"
    for path, rows in zip(
        coverage.CASE_RECORDS,
        (
            [one("tp2"), one("dp2", problems=["canary"]), one("dp2", "NVIDIA H200", OLDEST)],
            [one("tp2", "NVIDIA H200"), one("dp2", version=NEWEST), one("tp2", "NVIDIA B200")],
        ),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(json.dumps({"rows": rows}))
    assert cell(row, OLDEST) == "served: H200" and cell(row, NEWEST) == "served, not run"
    assert cell(Coverage("m", "f", ("tests/server/a.py::b",), cases=("tp2",)), OLDEST) == (
        "served: CPU server, B200, H100, H200"
    )


def test_every_case_shows_a_row_and_every_row_names_cases_that_exist():
    named = {case for row in COVERAGE for case in row.cases}
    assert named <= {*CASES, *CHUNKS, *SIDES, *RANKS} and named >= {*CASES, *CHUNKS}


def test_the_page_has_a_line_for_each_row_and_its_links_lead_somewhere():
    text = supported.render()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    for row in COVERAGE:
        (line,) = [line for line in lines if line.startswith(f"| {row.model} | {row.feature}")]
        assert [part.strip() for part in line.split("|")][3:-2] == [cell(row, v) for v in RELEASES]
        assert all(f"(../{evidence.partition('::')[0]})" in line for evidence in row.evidence)
    assert len({(row.model, row.feature) for row in COVERAGE}) == len(COVERAGE)
