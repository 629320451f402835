"""The canary in a real server on the CPU: silent where all is right, and it stops a server that is wrong."""

import json
import os
import re
import urllib.error

import pytest

from sglang_hisa.launch.common.server import ServerFailed, ServerProcess, cpu_env, cpu_flags
from tests.server.conftest import PLUGINS, shared_prefix_load, text, watched
from tests.server.test_real_server import SMALL

pytestmark = pytest.mark.server


def test_full_canary_finds_nothing_at_page_boundaries_and_under_load(tmp_path, tiny):
    hisa = {**SMALL, "canary": "full", "canary_stop": True}
    flags = ["--chunked-prefill-size", "256", "--enable-mixed-chunk", "--enable-metrics"]
    with watched(tmp_path, tiny, hisa, flags, pool_tokens=2048) as (server, counts):
        for length in (1, 63, 64, 65):
            before = server.receipts()[0]["canary"]["checks"]
            answer = server.generate(text(length, length), 3)
            assert len(answer["output_ids"]) == 3
            # Forwards of length, length + 1 and length + 2 tokens in three layers, and the one that the
            # overlap schedule has begun before it knows that the request is finished.
            pages = [3 * ((length + i) // 64) for i in range(4)]
            assert server.receipts()[0]["canary"]["checks"] - before in (sum(pages[:3]), sum(pages))
        answers = shared_prefix_load(server, count=8)
        assert any(a["meta_info"]["cached_tokens"] >= 64 for a in answers), "no prefix was shared"
        hostile(server)
        canary = server.receipts()[0]["canary"]
        assert canary["mode"] == "full" and canary["violations"] == 0 and canary["first"] is None
        assert canary["checks"] > 500 and counts()["stale"] == 0
        metrics = server.request("/metrics")
        found = {
            name: float(
                re.search(rf"(?m)^sglang_hisa:canary_{name}_total(?:\{{[^}}]*\}})? (\S+)", metrics)[1]
            )
            for name in ("checks", "violations")
        }
        assert found == {"checks": canary["checks"], "violations": 0}


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
