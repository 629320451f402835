"""Acceptance with real servers on the CPU: a case that brings pages back from the host."""

import json

import pytest

from sglang_hisa.launch.acceptance.__main__ import main

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800), pytest.mark.once("0.5.23")]


def test_a_case_beside_stock(tmp_path):
    out = tmp_path / "acceptance.json"
    assert main(["--cpu", "--timeout", "900", "--out", str(out), "--cases", "hicache"]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    (rank,) = row["facts"]["ranks"]
    assert row["facts"]["hisa_equals_stock"] == 1 and row["facts"]["tokens_from_host"] > 1000
    assert rank["canary_checks"] > 1000 and rank["violations"] == 0 and rank["layers"] == 3
    assert rank["summary_rebuilds"]["hicache_load"] > 30
    assert 0 < rank["candidate_share"]["decode"] < 0.8 and 0 < rank["candidate_share"]["prefill"] < 0.8
