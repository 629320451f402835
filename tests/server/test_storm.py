"""What a server goes through in a bad hour, canary on every page: no summary may be wrong afterwards."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from sglang_hisa.launch.common.logs import retractions
from sglang_hisa.launch.common.server import ServerFailed
from sglang_hisa.patches.contract import installed_version
from sglang_hisa.patches.releases import NEWEST
from tests.server.conftest import PLUGINS, shared_prefix_load, text, watched
from tests.server.test_real_server import SMALL

pytestmark = [pytest.mark.server, pytest.mark.promise(1)]

SAVER = PLUGINS / "saver"
STORM = {
    "SGLANG_TEST_RETRACT": "1",
    "SGLANG_TEST_RETRACT_INTERVAL": "7",
    "SGLANG_TEST_RETRACT_NO_PREFILL_BS": "6",
}
PROMPTS = [text(length, length) for length in (129, 700, 449)]


@pytest.fixture(scope="module")
def storm(tmp_path_factory, tiny):
    """A server whose canary stops it, whose decode is retracted often and whose memory can be released."""
    folder = tmp_path_factory.mktemp("storm")
    hisa = {**SMALL, "canary": "full", "canary_stop": True}
    flags = ["--chunked-prefill-size", "256", "--enable-memory-saver"]
    extra = {**STORM, "KEEP_CACHE": str(folder / "keep")}
    more = {"pool_tokens": 2048, "extra": extra, "plugins": [SAVER]}
    with watched(folder, tiny, hisa, flags, **more) as (server, counts):
        yield SimpleNamespace(server=server, counts=counts, keep_cache=folder / "keep")


def answers(server):
    return [server.generate(prompt, 7)["output_ids"] for prompt in PROMPTS]


def settle(server):
    """An answer leaves the scheduler one more step, in which a release or new weights end 0.5.17; what it is
    asked after this it hears after that step."""
    server.receipts()


def alone(server):
    server.flush_cache()
    return answers(server)


def assert_nothing_wrong(storm, checks):
    canary, counts = storm.server.receipts()[0]["canary"], storm.counts()
    assert canary["violations"] == 0 and canary["checks"] > checks, json.dumps(canary)
    assert counts["wrong"] == [] and counts["stale"] == 0


def test_retraction_abort_pause_flush_and_new_weights(storm, tiny):
    server = storm.server
    before = alone(server)

    # More requests than slots and pages, decode retracted every few forwards.
    several = shared_prefix_load(server, count=20, at_once=15)
    assert all(len(answer["output_ids"]) == 9 for answer in several)
    assert retractions(server.log) > 0

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

    assert alone(server) == before
    settle(server)
    assert server.request("/update_weights_from_disk", {"model_path": str(tiny)})["success"]
    assert alone(server) == before
    assert_nothing_wrong(storm, checks=2000)


def release_and_resume(server):
    for step in ("release", "resume"):
        server.request(f"/{step}_memory_occupation", {})


def test_memory_released_and_resumed(storm):
    """Pool, request tables, index keys and summaries come back as NaN and random bytes: nothing reads them.

    The flush in SGLang's release is why; a cache that outlives it is noticed.
    """
    server = storm.server
    before = alone(server)
    settle(server)
    release_and_resume(server)
    cached = [server.generate(prompt, 7) for prompt in PROMPTS]
    assert [answer["output_ids"] for answer in cached] == before
    assert all(answer["meta_info"]["cached_tokens"] == 0 for answer in cached)
    if installed_version() == NEWEST:  # 0.5.17 releases the memory of an idle server only
        with ThreadPoolExecutor(4) as pool:
            cut = [pool.submit(server.generate, text(300 + i, 70 + i), 24) for i in range(4)]
            time.sleep(1)
            server.request("/pause_generation", {"mode": "retract"})
            release_and_resume(server)
            server.request("/continue_generation", {})
            assert all(len(one.result()["output_ids"]) == 24 for one in cut)
    shared_prefix_load(server, count=6)
    answers(server)
    assert_nothing_wrong(storm, checks=300)

    storm.keep_cache.touch()
    settle(server)
    release_and_resume(server)
    with pytest.raises((ServerFailed, OSError)):
        answers(server)
    assert "canary: the summary of page" in server.log.read_text()
