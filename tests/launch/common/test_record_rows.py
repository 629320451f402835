"""The records of launch/results: one reader serves them all (docs/design.md, records)."""

import json

import pytest

from sglang_hisa.launch.pages import tables

RESULTS = tables.ROOT / "launch/results"
RECORDS = sorted(str(path.relative_to(RESULTS)) for path in RESULTS.glob("*.json"))
ORIGIN = {"gpu", "driver", "python", "torch", "triton", "sglang", "commit", "command", "date"}
BESIDE_STOCK = {"total", "refine", "topk"}
"""Stages of a kernel record that stock DSA has, too."""
FIELDS = {
    "kernels": {"phase", "context", "budget", "heads", "stage", "hisa_us"},
    "ab": {"preset", "context", "concurrency", "metric", "speedup", "ci_low", "ci_high", "verdict"},
    "h100": {"arm", "context", "concurrency", "receipt_active", "graphs_with_hisa"},
    "stress": {"test", "minutes", "requests", "canary_pages_checked", "violations", "crashes"},
    "quality": {"arm", "task", "context", "accuracy", "ci_low", "ci_high", "n"},
    "recall": {"layer", "mass", "recall"},
}
"""Of every row, by the first word of a record's name; the others have fields of their own."""


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_has_its_origin_and_rows(name: str) -> None:
    record = json.loads((RESULTS / name).read_text())
    assert record["schema_version"] in (1, 2) and record["provenance"].keys() >= ORIGIN and record["rows"]
    wanted = FIELDS.get(name.partition("-")[0].removesuffix(".json"), set())
    for row in record["rows"]:
        assert wanted <= row.keys()
        if name.startswith("kernels"):
            assert {"decode": "batch", "prefill": "rows"}[row["phase"]] in row
            assert row["stage"] not in BESIDE_STOCK or {"stock_us", "speedup"} <= row.keys()
            assert row["stage"] != "total" or "floor_us" in row


def test_every_kind_of_record_is_kept() -> None:
    assert {name.partition("-")[0].removesuffix(".json") for name in RECORDS} >= FIELDS.keys()
