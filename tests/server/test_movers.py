"""Real servers whose index keys arrive without a store: from the host (HiCache)."""

import json

import pytest

from .conftest import shared_prefix_load, text, watched
from .test_real_server import SMALL

pytestmark = pytest.mark.server

PROMPTS = [text(length, length) for length in (897, 705, 641, 833)]
"""Together more than the device's pool holds, and less than the host's."""


def from_host(answers):
    """Pages that SGLang says it loaded for these requests."""
    details = [answer["meta_info"]["cached_tokens_details"] for answer in answers]
    return sum(detail["host"] for detail in details if detail) // 64


def test_hicache_brings_pages_back_with_their_summaries(tmp_path, tiny):
    """Evicted pages come back from the host, alone and under load; a reseal that is forgotten is named."""
    forget = tmp_path / "forget"
    flags = ["--enable-hierarchical-cache", "--hicache-ratio", "3", "--chunked-prefill-size", "256"]
    hisa, more = {**SMALL, "canary": "full"}, {"FORGET_MOVES": str(forget)}
    with watched(tmp_path, tiny, hisa, flags, pool_tokens=2048, extra=more) as (server, counts):
        fresh = [server.generate(prompt, 7)["output_ids"] for prompt in PROMPTS]
        assert server.receipts()[0]["summary_rebuilds"] == {}
        again = [server.generate(prompt, 7) for prompt in PROMPTS]
        assert [answer["output_ids"] for answer in again] == fresh
        receipt = server.receipts()[0]
        assert from_host(again) == 14 + 11 + 10 + 13, "every page but the one of the last token"
        assert receipt["summary_rebuilds"] == {"hicache_load": from_host(again)}

        shared_prefix_load(server, count=8)
        shared_prefix_load(server, count=8)
        canary = server.receipts()[0]["canary"]
        assert canary["violations"] == 0 and canary["checks"] > 2000, json.dumps(canary)
        assert counts()["wrong"] == [] and counts()["stale"] == 0
        assert server.receipts()[0]["summary_rebuilds"]["hicache_load"] > 48

        forget.touch()
        again = [server.generate(prompt, 7) for prompt in PROMPTS]
        canary = server.receipts()[0]["canary"]
        assert from_host(again) > 0 and canary["violations"] > 0
        assert canary["first"].endswith(", hicache_load"), canary["first"]
