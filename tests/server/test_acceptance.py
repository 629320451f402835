"""Acceptance with real servers on the CPU: pages back from the host, and the receipts of all ranks."""

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


def test_every_rank_of_a_server_tells_what_it_pruned(tmp_path):
    """SGLang answers with the first rank's receipt alone."""
    out = tmp_path / "ranks.json"
    asked = ["--whole", "tests/plugins/receipts", "--gpus", "2", "--cases", "whole-tp2-paper"]
    assert main(["--cpu", "--timeout", "900", "--out", str(out), *asked]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    first, second = row["facts"]["ranks"]
    assert first == second and row["shows"] == "the tiny model, TP 2, `paper`"
    assert first["canary_checks"] > 500 and first["violations"] == 0 and first["layers"] == 3
    # Rows 257 to 640 of the prefix, and those that follow it, keep 256 tokens.
    assert first["candidate_share"]["decode"] == pytest.approx(256 / 680, abs=0.05)
    assert 0.4 < first["candidate_share"]["prefill"] < 0.7
