"""The trained model of launch/research answers on a CPU as well, and so does HISA within its budget.

Scaled down by four: top-k 512 (what its sparse stages were trained with), a budget of 1024 tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_hisa.launch.cli import main

pytestmark = [pytest.mark.server, pytest.mark.timeout(2700), pytest.mark.once("0.5.23")]
MODEL = Path(__file__).parents[2] / "launch" / "research" / "retriever"
FITS, TIGHT = 1021, 2057


def test_stock_retrieves_and_hisa_within_its_budget_answers_the_same(tmp_path: Path) -> None:
    """Up to 1024 tokens the arm keeps everything; beyond, its receipt says that it does not."""
    arm = "tight=paper:block=64:prefill_tokens=1024:decode_tokens=1024"
    words = ["eval", "--cpu", str(MODEL), "--together", "--arms", f"stock,{arm}", "--out", str(tmp_path)]
    asked = ["--tasks", "multikey-2", "--contexts", f"{FITS},{TIGHT}", "--samples", "1"]
    smaller = ["--json-model-override-args", '{"index_topk": 512}', "--chunked-prefill-size", "512"]
    assert main([*words, *asked, "--at-once", "1", *smaller]) == 0
    record = json.loads((tmp_path / "quality.json").read_text())
    assert record["complete"] and all(row["ci_low"] <= row["accuracy"] for row in record["rows"])
    right = {(a["arm"], a["context"], a["depth"]): a["right"] for a in record["answers"]}
    assert len(right) == 2 * 2 * 5
    assert sum(ok for (who, _, _), ok in right.items() if who == "stock") >= 9, "of ten"
    for (who, context, depth), ok in right.items():
        if who == "tight" and context == FITS:
            assert ok == right["stock", context, depth]
    assert record["arms"]["stock"]["receipt"] is None
    assert record["arms"]["tight"]["prompt_tokens"] == {str(FITS): FITS, str(TIGHT): TIGHT}
    receipt = record["arms"]["tight"]["receipt"]
    assert receipt["active"]
    rows = receipt["rows"]
    assert rows["stock"]["prefill: within the budget"] >= 5 * FITS
    assert 0.5 < rows["prefill"]["candidate_share"] < 1
    assert 15 * 64 <= rows["decode"]["candidate_tokens"] / rows["decode"]["rows"] < TIGHT
