"""Real servers whose index keys arrive without a store: from the host (HiCache), a prefill server (PD)."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest

from sglang_hisa.launch.common.logs import retractions
from sglang_hisa.launch.common.server import free_port
from tests.server.conftest import shared_prefix_load, text, watched
from tests.server.test_real_server import SMALL
from tests.server.test_storm import STORM

pytestmark = pytest.mark.server

LENGTHS = (897, 705, 641, 833)
PROMPTS = [text(length, length) for length in LENGTHS]
"""Together more than the device's pool holds, and less than the host's."""
HISA = {**SMALL, "canary": "full"}


def ids(answers):
    return [answer["output_ids"] for answer in answers]


def from_host(answers):
    """Pages that SGLang says it loaded for these requests."""
    details = [answer["meta_info"]["cached_tokens_details"] for answer in answers]
    return sum(detail["host"] for detail in details if detail) // 64


def look(server, counts):
    """The receipt, and what the oracle found wrong so far."""
    receipt, found = server.receipts()[0], counts()
    return SimpleNamespace(
        rebuilt=receipt["summary_rebuilds"],
        canary=receipt["canary"],
        wrong=(found["wrong"], found["stale"]),
    )


@pytest.fixture(scope="module")
def hicache(tmp_path_factory, tiny):
    """One server: prompts alone, again, under load, and again while HISA forgets to reseal."""
    folder = tmp_path_factory.mktemp("hicache")
    flags = ["--enable-hierarchical-cache", "--hicache-ratio", "3", "--chunked-prefill-size", "256"]
    forget = folder / "forget"
    seen = SimpleNamespace()
    extra = {"FORGET_MOVES": str(forget)}
    with watched(folder, tiny, HISA, flags, pool_tokens=2048, extra=extra) as (server, counts):
        seen.fresh, seen.first = [server.generate(p, 7) for p in PROMPTS], look(server, counts)
        seen.again, seen.second = [server.generate(p, 7) for p in PROMPTS], look(server, counts)
        for _ in range(2):
            shared_prefix_load(server, count=8)
        seen.load = look(server, counts)
        forget.touch()
        seen.forgot, seen.last = [server.generate(p, 7) for p in PROMPTS], look(server, counts)
    return seen


@pytest.mark.promise(1)
def test_hicache_brings_pages_back_with_their_summaries(hicache):
    # Answers are not compared: on some CPUs stock DSA's, too, are rounded by where a prompt's pages lie.
    assert hicache.first.rebuilt == {}
    assert from_host(hicache.again) == sum((n - 1) // 64 for n in LENGTHS), "all but the last token's"
    assert hicache.second.rebuilt == {"hicache_load": from_host(hicache.again)}
    assert hicache.load.rebuilt["hicache_load"] > hicache.second.rebuilt["hicache_load"]
    assert hicache.load.canary["violations"] == 0 and hicache.load.canary["checks"] > 2000
    assert hicache.load.wrong == ([], 0)


@pytest.mark.promise(1)
def test_the_canary_names_a_hicache_load_that_was_not_resealed(hicache):
    assert from_host(hicache.forgot) > 0 and hicache.last.canary["violations"] > 0
    assert hicache.last.canary["first"].endswith(", hicache_load")


@contextmanager
def disaggregated(tmp_path, model, flags=(), **decode_env):
    """A prefill and a decode server with the oracle.

    Yields (both as ``watched`` does, a function that asks the pair: the decode server's answer)."""
    bootstrap = {"bootstrap_host": "127.0.0.1", "bootstrap_port": free_port()}
    # Sending a cached prefix early waits for a CUDA event.
    no_gpu = {"SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX": "0", "SGLANG_HOST_IP": "127.0.0.1"}
    # A prefill server that is slow twice to answer /health (3 s) would be given up, with its requests.
    no_gpu["SGLANG_DISAGGREGATION_HEARTBEAT_MAX_FAILURE"] = "1000"
    rooms = itertools.count(1)
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        pair = []
        for mode, more in (("prefill", {}), ("decode", decode_env)):
            (tmp_path / mode).mkdir()
            own = ["--disaggregation-mode", mode, "--disaggregation-transfer-backend", "mooncake"]
            own += ["--disaggregation-bootstrap-port", str(bootstrap["bootstrap_port"])]
            # Less than the default, so that the pool takes several requests and one of them can be retracted.
            own += ["--chunked-prefill-size", "256", "--num-reserved-decode-tokens", "64", *flags]
            one = watched(tmp_path / mode, model, HISA, own, pool_tokens=2048, extra={**no_gpu, **more})
            pair.append(stack.enter_context(one))

        def ask(prompt, count):
            room = {**bootstrap, "bootstrap_room": next(rooms)}
            sides = [pool.submit(server.generate, prompt, count, **room) for server, _ in pair]
            return [side.result() for side in sides][1]

        yield pair, ask


@pytest.mark.promise(1)
def test_pd_decode_seals_what_a_prefill_server_sent(tmp_path, tiny, hicache):
    """A prefill and a decode server answer as one server does; decode retracts to the host and resumes."""
    forget = tmp_path / "forget"
    with disaggregated(tmp_path, tiny, **STORM, FORGET_MOVES=str(forget)) as (pair, ask):
        assert ids(ask(prompt, 7) for prompt in PROMPTS) == ids(hicache.fresh)
        decode = look(*pair[1])
        assert decode.rebuilt["pd_receive"] >= sum(-(-n // 64) for n in LENGTHS)
        short = [text(length, length) for length in (257, 321, 193, 383, 129, 447)]
        with ThreadPoolExecutor(6) as several:
            assert all(len(a["output_ids"]) == 80 for a in several.map(lambda p: ask(p, 80), short))
        assert retractions(tmp_path / "decode" / "server.log") > 0
        for side in map(look, *zip(*pair)):
            assert side.canary["violations"] == 0 and side.canary["checks"] > 300
            assert side.wrong == ([], 0)
        assert look(*pair[0]).rebuilt == {} and look(*pair[1]).rebuilt["load_cpu_copy"] > 0

        forget.touch()
        ask(PROMPTS[0], 7)
        canary = look(*pair[1]).canary
        assert canary["violations"] > 0 and canary["first"].endswith(", pd_receive")
