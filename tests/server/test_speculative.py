"""Speculative decoding in a real server on the CPU: a draft layer (MTP), several rows of a request a step."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from sglang_hisa.launch.common.models import make_tiny
from tests.server.conftest import TOPK, shared_prefix_load, text, watched
from tests.server.test_movers import LENGTHS, PROMPTS, disaggregated, from_host, look
from tests.server.test_real_server import SMALL, assert_right

pytestmark = pytest.mark.server


def drafts(tokens):
    """Flags for verify steps of ``tokens`` tokens, all but the first of them drafts."""
    return [
        *("--speculative-algorithm", "EAGLE", "--speculative-num-steps", str(tokens - 1)),
        *("--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", str(tokens)),
    ]


def accepted_and_rejected(answers):
    told = [answer["meta_info"] for answer in answers]
    right = sum(info["spec_num_correct_drafts"] for info in told)
    return right, sum(info["spec_num_proposed_drafts"] for info in told) - right


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("model"), index_topk=TOPK, draft=True)


def test_budget_that_covers_the_context_accepts_what_stock_accepts(tmp_path, model):
    """One request at a time: the drafts that stock SGLang accepts, and its answers.

    Not those of no drafts at all: stock SGLang's own two differ by rounding on some CPUs.
    """
    wide = {**SMALL, "decode_tokens": 4096, "prefill_tokens": 4096, "canary": "full", "canary_stop": True}
    arms = {"stock": None, "hisa": wide}

    def serve(name):
        (tmp_path / name).mkdir()
        flags = [*drafts(4), "--chunked-prefill-size", "256"]
        with watched(tmp_path / name, model, arms[name], flags, pool_tokens=2048) as (server, counts):
            answers = [server.generate(text(n, n), 24) for n in (1, 62, 129, 447)]
            return answers, counts(), server.receipts()[0]

    with ThreadPoolExecutor(2) as pool:
        stock, hisa = pool.map(serve, arms)
    theirs, ours = ([answer["output_ids"] for answer in answers] for answers, _, _ in (stock, hisa))
    assert ours == theirs
    assert accepted_and_rejected(hisa[0]) == accepted_and_rejected(stock[0])
    assert min(accepted_and_rejected(hisa[0])) > 20
    assert_right(hisa[1], rows=2000, pruned=False)
    assert stock[2] is None
    assert hisa[2]["layers"] == 3 and hisa[2]["draft_layers"] == 1
    assert min(hisa[2]["hisa_steps"][kind] for kind in ("verify", "draft", "draft extend")) > 20


def from_the_host(server):
    """Prompts that together are more than the pool holds, twice: the second time HiCache brings them back.

    Their answers are the oracle's to judge: a prompt cut in other places rounds in another way.
    """
    for prompt in PROMPTS:
        server.generate(prompt, 7)
    rebuilt = server.receipts()[0]["summary_rebuilds"]
    again = [server.generate(prompt, 7) for prompt in PROMPTS]
    assert from_host(again) == sum((n - 2) // 64 for n in LENGTHS), "drafts: all but the last two tokens'"
    now = server.receipts()[0]["summary_rebuilds"]["hicache_load"]
    assert now - rebuilt.get("hicache_load", 0) == from_host(again), "a page counts once, for both pools"


@pytest.mark.parametrize(
    "family,tokens",
    [
        pytest.param("v32", 4, marks=pytest.mark.promise(1, 2)),
        pytest.param("glm5", 3, marks=pytest.mark.once("0.5.17")),
    ],
)
def test_small_budget_at_page_boundaries(tmp_path, model, family, tokens):
    """Drafts accepted and rejected around the ends of pages, alone and under load: each row's choice is the
    oracle's, and so is each page's summary, in the target's pool and in the draft model's.

    DeepSeek-V3.2's pages also go to the host (HiCache) and come back.

    GLM-5's draft steps reuse the choice of the draft-extend step before (``index_share_for_mtp_iteration``).
    """
    if family == "glm5":
        shared = {"index_share_for_mtp_iteration": True}
        folder = tmp_path / "model"
        model = make_tiny(folder, index_topk=TOPK, draft=True, family=family, layers=2, more=shared)
    hisa = {**SMALL, "canary": "full", "canary_stop": True, "audit": 1.0}
    flags = [*drafts(tokens), "--chunked-prefill-size", "256"]
    fused = family == "glm5"
    if family == "v32":
        flags += ["--enable-hierarchical-cache", "--hicache-ratio", "3"]
    with watched(tmp_path, model, hisa, flags, pool_tokens=2048, fused=fused) as (server, counts):
        alone = [server.generate(text(length, length), 9) for length in (60, 62, 63, 64, 65, 382, 446)]
        answers = [*alone, *shared_prefix_load(server, count=8, at_once=4)]
        if family == "v32":
            from_the_host(server)
        receipt, seen = server.receipts()[0], counts()
    assert all(len(answer["output_ids"]) == 9 for answer in answers)
    assert any(answer["meta_info"]["cached_tokens"] >= 64 for answer in answers), "no prefix was shared"
    assert min(accepted_and_rejected(answers)) > 20
    assert_right(seen, rows=3000, pruned=True)
    assert seen["pools"] == [1, receipt["layers"]] and seen["completed"] > 100
    assert min(seen["modes"][mode] for mode in ("TARGET_VERIFY", "DRAFT_EXTEND_V2")) > 150
    assert ("DECODE" in seen["modes"]) == ("draft" in receipt["hisa_steps"]) == (family == "v32")
    assert receipt["canary"]["checks"] > 1000 and receipt["canary"]["violations"] == 0
    assert receipt["rows"]["decode"]["candidate_share"] < 0.9
    audited = receipt["audit"]["rows"]
    assert audited == seen["pruned_prefill"][str(receipt["layers"])] > 500, "only the target is audited"


@pytest.mark.once("0.5.17")
def test_drafts_behind_a_prefill_server(tmp_path, model):
    """Both pools come from the prefill server, and the decode server drafts on them, alone and under load."""
    with disaggregated(tmp_path, model, drafts(4)) as (pair, ask), ThreadPoolExecutor(4) as pool:
        answers = [ask(prompt, 9) for prompt in PROMPTS]
        more = (257, 321, 193, 383, 62, 447)
        answers += pool.map(lambda n: ask(text(n, n), 9), more)
        prefill, decode = map(look, *zip(*pair))
        receipt, seen = pair[1][0].receipts()[0], pair[1][1]()
    assert all(len(answer["output_ids"]) == 9 for answer in answers)
    assert min(accepted_and_rejected(answers)) > 10
    for side in (prefill, decode):
        assert side.canary["violations"] == 0 and side.canary["checks"] > 300 and side.wrong == ([], 0)
    assert decode.rebuilt == {"pd_receive": sum(-(-n // 64) for n in LENGTHS + more)}, "once for both pools"
    assert min(receipt["hisa_steps"][kind] for kind in ("verify", "draft", "draft extend")) > 9
    assert "prefill" not in receipt["hisa_steps"] and seen["pools"] == [1, 3] and seen["pruned"] > 300
