"""The matrix of docs/supported.md: its evidence exists, and what it says of a version follows from it."""

import ast
import json

import pytest

from sglang_hisa.launch import supported, tables
from sglang_hisa.launch.coverage import COVERAGE, Coverage, cell
from sglang_hisa.patches.table import V17, V23, VERSIONS

RECORD = "launch/results/h100-serve.json"


def functions(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", COVERAGE, ids=lambda row: f"{row.model}: {row.feature}")
def test_evidence_exists(row):
    for evidence in row.evidence:
        path, _, function = evidence.partition("::")
        assert (tables.ROOT / path).is_file()
        if function:
            assert function in functions(tables.ROOT / path)
        else:
            assert json.loads((tables.ROOT / path).read_text())["provenance"]["sglang"] in row.versions
    assert set(row.versions) <= set(VERSIONS) and row.versions
    assert row.evidence or not row.declined, "a refusal has a test"


def test_records_count_for_their_own_version_and_tests_for_all():
    assert cell(Coverage("m", "f", (RECORD,)), V17) == "served: H100"
    assert cell(Coverage("m", "f", (RECORD,)), V23) == "served, not run"
    assert cell(Coverage("m", "f", ("tests/a.py::b", RECORD)), V17) == "served: unit test, H100"
    assert cell(Coverage("m", "f", ("tests/a.py::b", "tests/server/a.py::b")), V23) == "served: CPU server"
    assert cell(Coverage("m", "f", ("tests/a.py::b",), (V23,)), V17) == "–"
    assert cell(Coverage("m", "f", ("tests/a.py::b",), declined="so"), V23) == "declined"


def test_the_page_has_a_line_for_each_row_and_its_links_lead_somewhere():
    text = supported.render()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    for row in COVERAGE:
        (line,) = [line for line in lines if line.startswith(f"| {row.model} | {row.feature}")]
        assert [part.strip() for part in line.split("|")][3:5] == [cell(row, v) for v in VERSIONS]
        assert all(f"(../{evidence.partition('::')[0]})" in line for evidence in row.evidence)
    assert len({(row.model, row.feature) for row in COVERAGE}) == len(COVERAGE)
