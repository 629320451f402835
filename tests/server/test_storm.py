"""What a server goes through in a bad hour, canary on every page: no summary may be wrong afterwards."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sglang_hisa.launch.ab.run import retractions

from .conftest import shared_prefix_load, text, watched
from .test_real_server import SMALL

pytestmark = pytest.mark.server

STORM = {
    "SGLANG_TEST_RETRACT": "1",
    "SGLANG_TEST_RETRACT_INTERVAL": "7",
    "SGLANG_TEST_RETRACT_NO_PREFILL_BS": "6",
}


def test_retraction_abort_pause_flush_and_new_weights(tmp_path, tiny):
    hisa = {**SMALL, "canary": "full", "canary_stop": True}
    flags = ["--chunked-prefill-size", "256"]
    with watched(tmp_path, tiny, hisa, flags, pool_tokens=2048, extra=STORM) as (server, counts):
        prompts = [text(length, length) for length in (129, 700, 449)]

        def alone():
            server.flush_cache()
            return [server.generate(prompt, 7)["output_ids"] for prompt in prompts]

        before = alone()

        # More requests than slots and pages, decode retracted every few forwards.
        answers = shared_prefix_load(server, count=20, at_once=15)
        assert all(len(answer["output_ids"]) == 9 for answer in answers)
        assert retractions(tmp_path / "server.log") > 0

        # Requests in prefill and in decode are aborted; others are paused in the middle and go on.
        with ThreadPoolExecutor(12) as pool:
            cut = [pool.submit(server.generate, text(900, i), 300) for i in range(4)]
            kept = [pool.submit(server.generate, text(300 + i, 50 + i), 16) for i in range(4)]
            time.sleep(2)
            server.request("/pause_generation", {"mode": "in_place"})
            server.request("/continue_generation", {})
            assert all(len(one.result()["output_ids"]) == 16 for one in kept)
            server.request("/abort_request", {"abort_all": True})
            ends = [one.result()["meta_info"]["finish_reason"]["type"] for one in cut]
        assert "abort" in ends

        assert alone() == before
        assert server.request("/update_weights_from_disk", {"model_path": str(tiny)})["success"]
        assert alone() == before

        canary = server.receipts()[0]["canary"]
        assert canary["violations"] == 0 and canary["checks"] > 2000, json.dumps(canary)
        assert counts()["wrong"] == [] and counts()["stale"] == 0
