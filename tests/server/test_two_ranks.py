"""Two ranks over gloo on the CPU: tensor parallelism, where both choose alike, DP attention, where each
serves its own requests, and pipeline stages, where each serves its own layers."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from sglang_hisa.launch.common.models import make_tiny
from sglang_hisa.launch.common.server import ServerFailed
from sglang_hisa.patches import contract
from sglang_hisa.patches.releases import NEWEST
from tests.server.conftest import PLUGINS, TOPK, shared_prefix_load, text, watched
from tests.server.test_real_server import SMALL, assert_right
from tests.server.test_speculative import accepted_and_rejected, drafts

pytestmark = pytest.mark.server

RANKS = PLUGINS / "ranks"
TP = ["--tp", "2", "--chunked-prefill-size", "256"]
DP = ["--tp", "2", "--enable-dp-attention", "--dp", "2"]
FP8_KV = ["--kv-cache-dtype", "fp8_e4m3", "--dsa-decode-backend", "flashmla_kv"]


def two_ranks(folder, model, flags, *, fused=False, **more):
    """``watched``, with a canary that ends the server, whichever rank it is of."""
    extra = {"RANKS": str(folder), "SGLANG_CPU_OMP_THREADS_BIND": "0|0", **more}
    hisa = {**SMALL, "canary": "full", "canary_stop": True}
    return watched(folder, model, hisa, flags, pool_tokens=2048, extra=extra, plugins=[RANKS], fused=fused)


def uneven_load(server):
    """Two requests decode on one rank beside one on the other, for many steps; their answers."""
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda n: server.generate(text(n, n), 40), (33, 34, 35)))


def of_both_ranks(folder, first, second):
    return [json.loads((folder / name).read_text()) for name in (first, second)]


def test_both_ranks_serve_and_choose_the_same(tmp_path, tiny):
    """With torch's top-k, rank 0's choice broadcast to the other, and no overlap of steps."""
    flags = [*TP, "--dsa-topk-backend", "torch", "--disable-overlap-schedule"]
    with two_ranks(tmp_path, tiny, flags, SGLANG_DSA_TOPK_BROADCAST="1") as (server, _):
        answers = shared_prefix_load(server, count=6, at_once=3)
        assert all(len(answer["output_ids"]) == 9 for answer in answers)
        canary = server.receipts()[0]["canary"]
        assert canary["checks"] > 100 and canary["violations"] == 0
    seen = of_both_ranks(tmp_path, "0.json", "1.json")
    assert seen[0]["calls"] > 50 and seen[0] == seen[1]
    assert seen[0]["broadcasts"] >= seen[0]["calls"]
    for counts in of_both_ranks(tmp_path, "oracle.json", "oracle.json.1"):
        assert_right(counts, rows=2000, pruned=True)
    log = (tmp_path / "server.log").read_text().splitlines()
    receipts = [line.split("receipt: ")[1] for line in log if "sglang-hisa receipt: " in line]
    assert len(receipts) == 2 and receipts[0] == receipts[1]


def test_dp_attention(tmp_path, tiny):
    """Ranks without a request, rows that pad the shorter rank, and mixed steps; each rank is right alone."""
    flags = [*DP, "--chunked-prefill-size", "512", "--enable-mixed-chunk"]
    with two_ranks(tmp_path, tiny, flags) as (server, _):
        for seed in (3, 4):
            server.generate(text(700, seed), 12)  # the other rank is idle
        answers = shared_prefix_load(server, count=7, at_once=7)
        assert all(len(answer["output_ids"]) == 9 for answer in answers)
        uneven_load(server)
        receipts = server.receipts()
    both = of_both_ranks(tmp_path, "0.json", "1.json")
    assert sum(seen["idle"] for seen in both) > 15 and sum(seen["padded"] for seen in both) > 0
    assert len(receipts) == 2
    for receipt, counts in zip(receipts, of_both_ranks(tmp_path, "oracle.json", "oracle.json.1")):
        assert receipt["active"] and receipt["hisa_steps"]["decode"] > 9
        assert receipt["canary"]["checks"] > 100 and receipt["canary"]["violations"] == 0
        assert_right(counts, rows=2000, pruned=True)


@pytest.mark.once("0.5.23")  # 0.5.17 itself: a rank without a request has no metadata in eager draft steps
def test_dp_attention_with_drafts(tmp_path):
    """Draft, verify and draft-extend rows of ranks that are idle or padded; each rank is right alone."""
    model = make_tiny(tmp_path / "model", index_topk=TOPK, draft=True)
    flags = [*DP, "--chunked-prefill-size", "512", *drafts(4)]
    with two_ranks(tmp_path, model, flags, fused=True) as (server, _):
        # Alone, beside an idle rank: page 10 ends in a draft step of some of them.
        answers = [server.generate(text(n, n), 9) for n in range(698, 703)]
        answers += shared_prefix_load(server, count=7, at_once=7)
        answers += uneven_load(server)
        receipts = server.receipts()
    assert min(accepted_and_rejected(answers)) > 10
    both = of_both_ranks(tmp_path, "0.json", "1.json")
    assert sum(seen["idle"] for seen in both) > 15 and sum(seen["padded"] for seen in both) > 0
    assert len(receipts) == 2
    for receipt, counts in zip(receipts, of_both_ranks(tmp_path, "oracle.json", "oracle.json.1")):
        assert min(receipt["hisa_steps"][kind] for kind in ("verify", "draft", "draft extend")) > 9
        assert receipt["canary"]["checks"] > 100 and receipt["canary"]["violations"] == 0
        assert_right(counts, rows=2000, pruned=True)


def test_pipeline_stages_over_an_fp8_kv_cache(tmp_path):
    """Layers 2 to 4 are the second stage's; prefill chooses in RAGGED form, FlashMLA's KV kernel decodes."""
    model = make_tiny(tmp_path / "model", index_topk=TOPK, layers=5)
    flags = ["--pp-size", "2", "--chunked-prefill-size", "256", *FP8_KV]
    cores = "0|0" if contract.installed_version() == NEWEST else "0"  # 0.5.17 counts no pipeline stages here
    with two_ranks(tmp_path, model, flags, fused=True, SGLANG_CPU_OMP_THREADS_BIND=cores) as (server, _):
        answers = shared_prefix_load(server, count=6, at_once=3)
        assert all(len(answer["output_ids"]) == 9 for answer in answers)
        assert any(answer["meta_info"]["cached_tokens"] >= 64 for answer in answers)
    stages = of_both_ranks(tmp_path, "oracle.json", "oracle.json.1")
    assert [counts["layers"] for counts in stages] == [[0, 1], [2, 3, 4]]
    for counts in stages:
        assert_right(counts, rows=2000, pruned=True)
        assert 0.5 * counts["rows"] < counts["ragged"] < counts["rows"]


@pytest.mark.once("0.5.23")
def test_ranks_that_differ_stop_with_one_message_each(tmp_path, tiny):
    differing = two_ranks(tmp_path, tiny, TP, RANKS_DIFFER="1")
    with pytest.raises(ServerFailed, match="exited"), differing:
        pass
    log = (tmp_path / "server.log").read_text()
    assert "refusing to start: the ranks of this server do not run the same HISA" in log
    assert "own setting is 0 on rank 0, 1 on rank 1" in log
    assert "Load weight end" not in log
