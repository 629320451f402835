"""The real server on a CPU: every selection against the oracle, every summary against its rebuild."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sglang_hisa.launch.common.server import ServerFailed
from sglang_hisa.patches.live_metrics import MOVERS
from tests.server.conftest import shared_prefix_load, spawned, text, watched

pytestmark = pytest.mark.server

SMALL = {
    "decode_tokens": 320,  # as prefill: a mixed step's decode rows look like prefill rows to the oracle
    "decode_fraction": 0.0,
    "prefill_tokens": 320,
    "prefill_group": 1,  # the tests of rows in groups say so
    "prefill_heads": 1.0,
    "prefill_fraction": 0.0,
    "dense_tail_tokens": 0,
}


def assert_right(counts, *, rows, pruned):
    assert counts["wrong"] == []
    assert counts["stale"] == 0, "a summary differs from its rebuild"
    assert counts["rows"] >= rows and counts["pages"] >= rows / 20
    assert (counts["pruned"] > rows / 10) if pruned else counts["pruned"] == 0


def assert_active(server, preset="balanced"):
    receipt = server.receipts()[0]
    assert receipt["active"] and receipt["layers"] == 3 and receipt["preset"] == preset
    return receipt


def exported(server):
    """HISA's samples in ``/metrics``: {name: {(labels without those of the process): value}}."""
    found, ours = {}, {"model_name", "engine_type", "tp_rank", "pp_rank", "moe_ep_rank"}
    for family in text_string_to_metric_families(server.request("/metrics")):
        for sample in family.samples:
            if sample.name.startswith("sglang_hisa:"):
                assert sample.labels.keys() >= ours, "the labels of SGLang's own metrics"
                labels = tuple(value for key, value in sample.labels.items() if key not in {"pid", *ours})
                found.setdefault(sample.name.removeprefix("sglang_hisa:"), {})[labels] = sample.value
    return found


def assert_metrics_match(server, receipt):
    """``/metrics`` tells what the receipt of the same moment does, and what these prompts must give."""
    rows, audit = receipt["rows"], receipt["audit"]
    # The scheduler tells its last steps once it is idle, one metric after the other: two equal looks are all.
    deadline, before = time.monotonic() + 60, None
    while True:
        metrics = exported(server)
        told = metrics["rows_total"].get(("decode",)) == rows["decode"]["rows"]
        if (told and metrics == before) or time.monotonic() > deadline:
            break
        before = metrics
        time.sleep(0.2)
    (labels,) = metrics["active"]
    assert metrics["active"][labels] == 1 and {"64", "320"} <= set(labels)
    assert any(label.startswith("balanced (changed: ") for label in labels)
    assert metrics["layers"] == {(): 3}
    for phase in ("decode", "prefill"):
        for name in ("rows", "candidate_tokens", "context_tokens"):
            assert metrics[f"{name}_total"][phase,] == rows[phase][name] > 100
        assert 0.3 < metrics["candidate_share"][phase,] == rows[phase]["candidate_share"] < 1
    for name, counted in (
        ("steps", receipt["hisa_steps"]),
        ("stock_steps", receipt["stock_steps"]),
        ("stock_rows", rows["stock"]),
    ):
        assert counted and {key: value for (key,), value in metrics[f"{name}_total"].items()} == counted
    # Whole prompts of 65 and 320 tokens fit the budget, one token of each is computed anew when cached.
    assert rows["stock"]["prefill: within the budget"] >= 65 + 320
    assert metrics["summary_rebuilds_total"] == {(mover,): 0 for mover in MOVERS}
    assert metrics["audit_rows_total"][()] == audit["rows"] > 50
    for name in ("recall", "worst_recall", "missed_mass", "worst_missed_mass"):
        assert 0 < metrics[f"audit_{name}"][()] == audit[name] < 1
    assert metrics["audit_worst_layer"][()] == audit["worst_layer"]
    assert audit["worst_recall"] <= audit["recall"] and audit["missed_mass"] <= audit["worst_missed_mass"]


def test_answers_from_the_cache(tmp_path, tiny):
    """One request at a time: a prompt reads the radix cache from its second run on and answers the same each
    time; without the cache it answers as at first. These two are not compared: some CPUs round a row that is
    computed alone otherwise than one among many."""
    with spawned(tmp_path, tiny, {**SMALL, "audit": 0.2}, ["--enable-metrics"]) as (server, counts):
        for length in (63, 64, 65, 320, 321, 641, 900):
            prompt = text(length, length)
            fresh, cached, again = (server.generate(prompt, 12) for _ in range(3))
            assert fresh["meta_info"]["cached_tokens"] == 0
            # The last token is always computed anew, so at most the pages before it are cached.
            for answer in (cached, again):
                assert answer["meta_info"]["cached_tokens"] == (length - 1) // 64 * 64
            assert cached["output_ids"] == again["output_ids"]
        server.flush_cache()
        assert server.generate(prompt, 12)["output_ids"] == fresh["output_ids"]
        streamed = [answer["output_ids"] for answer in server.stream(prompt, 12)]
        grown = [len(tokens) for tokens in streamed]  # by more than one where this machine is busy
        assert streamed == [again["output_ids"][:count] for count in grown]
        assert len(grown) > 1 and grown == sorted(set(grown)) and grown[-1] == 12
        assert_metrics_match(server, assert_active(server))
        assert_right(counts(), rows=5000, pruned=True)


@pytest.mark.parametrize(
    "fused",
    [
        pytest.param(False, id="unfused", marks=pytest.mark.once("0.5.17")),
        pytest.param(True, id="fused", marks=pytest.mark.once("0.5.23")),
    ],
)
def test_large_blocks_sink_and_local(tmp_path, tiny, fused):
    """128-token blocks, three sink pages, a wide local window; positions and slots; rows that choose
    alone and in pairs."""
    hisa = {**SMALL, "block": 128, "sink_tokens": 150, "local_tokens": 130, "refine": "deepgemm"}
    hisa |= {"prefill_group": 2 if fused else 1}
    with watched(tmp_path, tiny, hisa, fused=fused) as (server, counts):
        shared_prefix_load(server, count=8, at_once=4)
        server.generate(text(1100, 5), 70)
        assert_right(counts(), rows=6000, pruned=True)
        assert assert_active(server)["refine"] == "deepgemm"


@pytest.mark.once("0.5.23")
def test_few_heads_score_the_tokens_of_pruned_prefill_rows(tmp_path, tiny):
    """Groups of eight rows, half of the heads; rows within the budget have all of them, decode rows too."""
    hisa = {**SMALL, "prefill_group": 8, "prefill_heads": 0.5, "audit": 0.2}
    with watched(tmp_path, tiny, hisa, fused=True) as (server, counts):
        for length in (320, 323, 641, 900):
            prompt = text(length, length)
            fresh, cached = (server.generate(prompt, 6) for _ in range(2))
            assert cached["meta_info"]["cached_tokens"] == (length - 1) // 64 * 64
            assert len(fresh["output_ids"]) == 6
        receipt = assert_active(server)
        assert receipt["config"]["prefill_heads"] == 0.5 and 0 < receipt["audit"]["recall"] < 1
        assert_right(counts(), rows=4000, pruned=True)


def test_budget_that_covers_the_context_is_stock(tmp_path, tiny):
    """Nothing is pruned, decode runs HISA all the same, and one request at a time answers as stock does."""
    prompts = [text(n, n) for n in (5, 64, 129, 700)]
    answers = {}
    for name, hisa in (("stock", None), ("hisa", {**SMALL, "decode_tokens": 4096, "prefill_tokens": 4096})):
        folder = tmp_path / name
        folder.mkdir()
        flags = ["--chunked-prefill-size", "256"]
        with watched(folder, tiny, hisa, flags, pool_tokens=2048) as (server, counts):
            answers[name] = [server.generate(p, 10)["output_ids"] for p in prompts]
            receipt = server.receipts()[0]
            if hisa is None:
                assert receipt is None, "stock serving must not know of HISA"
                continue
            shared_prefix_load(server, count=9)
            assert_right(counts(), rows=5000, pruned=False)
            assert receipt["hisa_steps"]["decode"] > 30
    assert answers["hisa"] == answers["stock"]


@pytest.mark.once("0.5.23")
def test_the_end_of_a_prompt_stays_dense(tmp_path, tiny):
    """The rows of its last tokens are stock DSA's, wherever chunks end; the audit sees the others' cost."""
    hisa = {**SMALL, "dense_tail_tokens": 301, "audit": 0.2}
    with watched(tmp_path, tiny, hisa, ["--chunked-prefill-size", "256"]) as (server, counts):
        server.generate(text(1000, 3), 2)
        receipt = assert_active(server)
        # 1000 tokens are chunks of 256, 256, 256 and 232; the first fits the budget of 320. Rows of more than
        # 698 tokens (of more than 699, to the pair) keep everything: 70 of the third chunk, all of the last.
        assert receipt["hisa_steps"]["prefill"] == 2 and receipt["hisa_steps"]["decode"] >= 1
        assert receipt["stock_steps"] == {"prefill: within the budget": 1, "prefill: end of prompts": 1}
        assert receipt["rows"]["stock"] == {"prefill: within the budget": 256, "prefill: end of prompts": 232}
        rows = receipt["rows"]["prefill"]
        assert rows["rows"] == 512 and rows["context_tokens"] == sum(range(257, 769))
        kept = sum(min(length, 4 * 64 + (length - 1) % 64 + 1) for length in range(257, 699))
        assert rows["candidate_tokens"] == kept + sum(range(699, 769))
        assert receipt["audit"]["rows"] > 90 and 0 < receipt["audit"]["recall"] < 1
        assert counts()["stale"] == 0
        # The oracle expects pruned rows everywhere: only rows that keep everything may differ.
        lengths = [int(m.split("length ")[1].rstrip(")")) for m in counts()["wrong"] if "length" in m]
        assert lengths and min(lengths) > 698 and any(length < 769 for length in lengths)


@pytest.mark.once("0.5.17")
def test_triton_kernels_serve_in_the_interpreter(tmp_path, tiny):
    """The kernels that a GPU compiles, run by Triton's interpreter inside the server."""
    hisa = {
        **SMALL,
        "kernels": "triton",
        "decode_tokens": 192,
        "prefill_tokens": 192,
        "prefill_group": 1,
    }
    with watched(tmp_path, tiny, hisa) as (server, counts):
        server.generate(text(261, 9), 4)
        assert_right(counts(), rows=700, pruned=True)
        assert assert_active(server)["kernels"] == "triton"


@pytest.mark.parametrize(
    "change,flags,parts",
    [
        pytest.param(
            {"decode_tokens": 32},
            [],
            ['"decode_tokens": 32', "index_topk 64", "at least 64"],
            id="budget below index_topk",
            marks=pytest.mark.promise(4),
        ),
        pytest.param(
            {},
            ["--enable-lmcache"],
            ["enable_lmcache=True", "fix: drop --enable-lmcache"],
            id="feature not served",
            marks=pytest.mark.promise(3),
        ),
    ],
)
@pytest.mark.once("0.5.23")
def test_refused_at_start(tmp_path, tiny, change, flags, parts):
    """The server exits with an error and one message; it never serves stock DSA instead."""
    with pytest.raises(ServerFailed) as caught, watched(tmp_path, tiny, {**SMALL, **change}, flags):
        pass
    log = (tmp_path / "server.log").read_text()
    assert "exited with code" in str(caught.value) and "exited with code 0" not in str(caught.value)
    assert log.count("refusing to start") == 1 and "Unset SGLANG_HISA" in log
    for part in parts:
        assert part in log
