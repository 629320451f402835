"""What the tests and records of a feature show: a cell of docs/supported.md."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sglang_hisa.launch.acceptance.record import CaseRecord
from sglang_hisa.launch.common.provenance import Provenance
from sglang_hisa.launch.common.record import Record, load
from sglang_hisa.launch.pages.coverage import BETWEEN, CASE_RECORDS, Coverage, existing
from sglang_hisa.launch.pages.reader import ROOT
from sglang_hisa.patches.releases import TESTED


@cache
def case_record(path: Path) -> CaseRecord:
    """Read once, not once for each row, release and table."""
    return load(path, CaseRecord)


@cache
def _origin(path: Path) -> Provenance:
    return load(path, Record).provenance


def shown_by(row: Coverage, version: str) -> list[str]:
    """GPUs on which every case of ``row`` was right with SGLang ``version``."""
    found: dict[str, set[str]] = {}
    for path in existing(*CASE_RECORDS):
        for one in case_record(ROOT / path).rows:
            where = one.provenance
            if one.case in row.cases and not one.problems and where and where.sglang == version:
                found.setdefault(where.gpus[0], set()).add(one.case)
    return [gpu for gpu, cases in found.items() if cases == set(row.cases)]


def cell(row: Coverage, version: str) -> str:
    """What the page says of ``row`` and ``version``. Records count for the SGLang in their provenance."""
    if version not in row.versions:
        return "–"
    if row.declined:
        return "declined"
    records = [path for path in row.evidence if "::" not in path]
    origins = [_origin(ROOT / path) for path in records]
    gpus = {where.gpus[0] for where in origins if where.sglang == version}
    gpus |= set(shown_by(row, version))
    between = version not in TESTED
    tests = [p for p in row.evidence if p not in records and p.startswith(BETWEEN) == between]
    shown = ["unit test"] if tests else []
    if any(path.startswith("tests/server/") for path in tests):
        shown = ["CPU server"]
    return f"served: {', '.join(shown + sorted(gpus))}" if shown or gpus else "served, not run"
