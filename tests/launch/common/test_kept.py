"""Load and eval records that are read and written again keep all they had, also what no reader knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.eval import formatting, report
from sglang_hisa.launch.load import report as load_report
from sglang_hisa.launch.load.record import LoadRecord
from tests.launch.load import records

RESULTS = Path(__file__).parents[3] / "launch" / "results"


def lost(kept: object, made: object, where: str = "record") -> list[str]:
    """Places of ``kept`` whose value ``made`` has not."""
    if isinstance(kept, dict) and isinstance(made, dict):
        return [one for key in kept for one in lost(kept[key], made.get(key, "nothing"), f"{where}.{key}")]
    if isinstance(kept, list) and isinstance(made, list) and len(kept) == len(made):
        return [one for at, pair in enumerate(zip(kept, made)) for one in lost(*pair, f"{where}[{at}]")]
    return [] if kept == made else [where]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("quality*.json")), ids=lambda path: path.stem)
def test_of_an_evaluation(path: Path) -> None:
    assert lost(json.loads(path.read_text()), json.loads(json.dumps(report.load(path).as_json()))) == []


def test_of_a_load() -> None:
    given = records.make({1: [records.answer(0.5), records.answer(None, error="boom")], 2: []})
    given["server"]["receipt"] = {"active": True, "preset": "paper", "of a later version": [1, {"x": None}]}
    given["points"][0] |= {"arrived": 1.5, "retractions": None}
    given |= {"rows": [{"prefill": {"rows": 3}}], "nonce": "ab", "log_tail": "end"}
    made = read(LoadRecord, given).as_json()
    assert lost(given, json.loads(json.dumps(made))) == []
    assert made["points"][1]["steady"] is None and made["provenance"]["driver"] is None, "as a new one has it"


def test_a_broken_load_is_named(tmp_path: Path) -> None:
    given = records.make({1: [records.answer(0.5)]})
    given["points"][0]["requests"][0]["ttft"] = "soon"
    (tmp_path / "report.json").write_text(json.dumps(given))
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}: LoadRecord\.points\[0\]\.requests\[0\]\.ttft is str"
    ):
        load_report.load(tmp_path)


def test_an_older_evaluation_tells_stock_from_an_arm_that_was_cut_off() -> None:
    served = {line[0]: line[1] for line in formatting.arms(report.load(RESULTS / "quality-first.json"))}
    assert served["stock"] == "stock, no HISA receipt" and served["balanced"] == "HISA"
    assert "not known" in served.values()
