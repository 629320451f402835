"""LoRA on the indexer's gates (``weights_proj``), computed outside of the methods that HISA patches."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from sglang_hisa.launch.common import choices
from sglang_hisa.launch.common.adapters import make_gates
from tests.server.conftest import TOPK, text, watched
from tests.server.test_real_server import SMALL, assert_right

pytestmark = pytest.mark.server

LAYERS = 3


@pytest.mark.once("0.5.23")  # 0.5.17 stops by itself: it looks for a name that its indexer lacks
def test_gates_of_an_adapter(tmp_path, tiny):
    """The same prompt with and without it, in one step: other tokens from the first layer on, each right."""
    adapter = make_gates(tmp_path / "adapter", tiny)
    flags = ["--enable-lora", "--lora-paths", f"gates={adapter}", "--lora-backend", "triton"]
    flags += ["--enable-return-indexer-topk", "--chunked-prefill-size", "512"]
    hisa = {**SMALL, "canary": "full"}
    with watched(tmp_path, tiny, hisa, flags) as (server, counts), ThreadPoolExecutor(2) as pool:
        asked = [{}, {"lora_path": "gates"}]
        answers = pool.map(
            lambda more: server.generate(text(700, 7), 6, return_indexer_topk=True, **more), asked
        )
        plain, adapted = (choices.decode(answer["meta_info"], LAYERS, TOPK) for answer in answers)
        late = slice(400, None)  # rows that are pruned
        assert (plain[late, 0] != adapted[late, 0]).any(axis=1).mean() > 0.9
        assert_right(counts(), rows=4000, pruned=True)
        canary = server.receipts()[0]["canary"]
        assert canary["checks"] > 100 and canary["violations"] == 0
