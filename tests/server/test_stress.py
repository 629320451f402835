"""The stress runner on a real CPU server, seconds a scene: it sends what it says and finds nothing wrong.

With HiCache and random delays: on a CPU one thread loads, stores and reads, so they reorder requests only.
"""

import json

import pytest

from sglang_hisa.launch.acceptance.stress.__main__ import main
from tests.server.conftest import PLUGINS
from tests.server.test_real_server import SMALL

pytestmark = [pytest.mark.server, pytest.mark.once("0.5.23")]


def test_scenes_on_a_real_server(tmp_path):
    out = tmp_path / "stress.json"
    hisa = json.dumps({**SMALL, "canary_stop": True})
    words = ["--cpu", "--out", str(out), "--arms", hisa, "--minutes", "0.02", "--at-once", "6"]
    # A pool that the prompts fill four times over: their shared prefixes go to the host and come back.
    hicache = ["--enable-hierarchical-cache", "--hicache-ratio", "6", "--max-total-tokens", "2048"]
    delays = ["--jitter", "3", "--plugin", str(PLUGINS / "jitter")]
    assert main([*words, *delays, *hicache]) == 0
    assert (
        "jitter: up to 3 ms before seals and _get_topk"
        in next(tmp_path.glob("stress-*-hisa-1.log")).read_text()
    )
    rows = {row["test"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"radix", "abort", "pause", "warm", "retract"}
    for row in rows.values():
        assert row["canary_pages_checked"] > 0 and row["requests"] >= 3, row  # a slow machine: one round
        assert row["violations"] == row["crashes"] == 0 and row["problems"] == []
    assert sum(row["pages_rebuilt"] for row in rows.values()) > 0, "no page came back from the host"
    assert rows["radix"]["facts"]["cached_tokens"] >= 64
    assert rows["abort"]["facts"]["aborted"] >= 1
    assert rows["retract"]["retractions"] > 0
    # One request at a time: a prefix from the cache differs from a fresh one by rounding at most.
    assert rows["warm"]["facts"]["kl_cold_cold"] <= 1e-6
