"""The canary in a real server on the CPU: silent where all is right, and it stops a server that is wrong."""

import json
import os
import re
import urllib.error
from types import SimpleNamespace

import pytest

from sglang_hisa.launch.common.server import ServerFailed, ServerProcess, cpu_env, cpu_flags
from tests.server.conftest import PLUGINS, shared_prefix_load, text, watched
from tests.server.test_real_server import SMALL, assert_active, assert_right

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def busy(tmp_path_factory, tiny):
    """One server alone and under load: concurrency, chunked prefill, mixed batches, a pool smaller than the
    working set; rows in pairs; requests that it must refuse or that are given up."""
    hisa = {**SMALL, "prefill_group": 2, "canary": "full", "canary_stop": True}
    flags = ["--chunked-prefill-size", "256", "--enable-mixed-chunk", "--enable-metrics"]
    folder = tmp_path_factory.mktemp("busy")
    seen = SimpleNamespace(checks={})
    with watched(folder, tiny, hisa, flags, pool_tokens=2048) as (server, counts):
        for length in (1, 63, 64, 65):
            before = server.receipts()[0]["canary"]["checks"]
            assert len(server.generate(text(length, length), 3)["output_ids"]) == 3
            seen.checks[length] = server.receipts()[0]["canary"]["checks"] - before
        seen.answers = shared_prefix_load(server)
        seen.receipt = assert_active(server)
        seen.counts = counts()
        hostile(server)
        seen.last_receipt, seen.last_counts = server.receipts()[0], counts()
        seen.metrics = server.request("/metrics")
    return seen


@pytest.mark.promise(1)
def test_full_canary_finds_nothing_at_page_boundaries_and_under_load(busy):
    for length, checks in busy.checks.items():
        # Forwards of length, length + 1 and length + 2 tokens in three layers, and the one that the
        # overlap schedule has begun before it knows that the request is finished.
        pages = [3 * ((length + i) // 64) for i in range(4)]
        assert checks in (sum(pages[:3]), sum(pages))
    canary = busy.last_receipt["canary"]
    assert canary["mode"] == "full" and canary["violations"] == 0 and canary["first"] is None
    assert canary["checks"] > 500 and busy.last_counts["stale"] == 0
    found = {
        name: float(
            re.search(rf"(?m)^sglang_hisa:canary_{name}_total(?:\{{[^}}]*\}})? (\S+)", busy.metrics)[1]
        )
        for name in ("checks", "violations")
    }
    assert found == {"checks": canary["checks"], "violations": 0}


@pytest.mark.promise(2)
def test_small_budget_under_load(busy):
    assert all(len(a["output_ids"]) == 9 for a in busy.answers)
    assert any(a["meta_info"]["cached_tokens"] >= 64 for a in busy.answers), "no prefix was shared"
    assert_right(busy.counts, rows=4000, pruned=True)
    assert busy.last_counts["wrong"] == []
    assert busy.counts["largest_step"] > 6 and busy.counts["prefill_steps"] > 20
    steps = busy.receipt["hisa_steps"]
    assert steps["decode"] > 9 and steps["prefill"] > 9
    assert not any("phase left" in reason for reason in busy.receipt["stock_steps"])


def hostile(server):
    """Requests that must be refused or may be given up; the server serves on as if they had not been."""
    before = server.generate(text(130, 7), 5)["output_ids"]
    for refused in ([], [5] * 5000):  # nothing, and more than the context
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.generate(refused, 3)
        assert caught.value.code == 400
    with pytest.raises(TimeoutError):  # the client leaves in the middle of the prefill
        server.request("/generate", {"text": text(1900, 8)}, timeout=0.3)
    assert server.generate(text(130, 7), 5)["output_ids"] == before


@pytest.mark.promise(1)
def test_a_missed_seal_stops_the_server_with_its_history(tmp_path, tiny):
    hisa = {**SMALL, "decode_tokens": 0, "canary": "full", "canary_stop": True}
    env = cpu_env(os.environ, json.dumps(hisa))
    env["PYTHONPATH"] = os.pathsep.join((env["PYTHONPATH"], str(PLUGINS / "faults")))
    env["FORGET_SEALS"] = "1"
    log = tmp_path / "server.log"
    with ServerProcess(cpu_flags(tiny, pool_tokens=2048), env=env, log=log) as server:
        server.wait_ready(900)
        assert len(server.generate(text(200, 1), 2)["output_ids"]) == 2, "three pages, all honest"
        with pytest.raises((ServerFailed, OSError)):
            for seed in range(2, 6):
                server.generate(text(200, seed), 2, timeout=60)
    found = re.search(
        r"canary: the summary of page \d+ in layer 1 is not that of its bytes; seen after event \d+, extend "
        r"of request (\w+), as its tokens 0 to 63; last writer: event \d+, extend of request (\w+)",
        log.read_text(),
    )
    assert found and found[1] == found[2]
