"""Real CPU servers of other DSA models: GLM-5's indexer, shared choices, LongCat-Flash."""

import numpy as np
import pytest

from sglang_hisa.launch.common import choices, models
from sglang_hisa.launch.common.models import make_tiny, shared_layers
from sglang_hisa.patches import contract
from sglang_hisa.patches.releases import NEWEST
from tests.server.conftest import TOPK, shared_prefix_load, text, watched
from tests.server.test_real_server import SMALL, assert_right

pytestmark = pytest.mark.server

POOL_TOKENS = 4096
SUMMARY_BYTES = 132
LONGCAT = {
    "architectures": ["LongcatFlashForCausalLM"],
    "model_type": "longcat_flash",
    "torch_dtype": "bfloat16",
    "vocab_size": 512,
    "hidden_size": 128,
    "ffn_hidden_size": 256,
    "expert_ffn_hidden_size": 64,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_lora_rank": 512,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "n_routed_experts": 4,
    "moe_topk": 2,
    "zero_expert_num": 0,
    "zero_expert_type": None,
    "max_position_embeddings": 4096,
    "rope_scaling": {**models.DEEPSEEK_V32["rope_scaling"], "rope_theta": 10000.0},
    "index_topk": TOPK,
    "index_n_heads": 4,
    "index_head_dim": 128,
    "cli_factor": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Tiny, with two things that the public model lacks: yarn rope (for the CPU) and no zero experts."""
HY_V4 = {
    "architectures": ["HYV4ForCausalLM"],
    "model_type": "hy_v4",
    "torch_dtype": "bfloat16",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 64,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 4096,
    "index_topk": TOPK,
    "index_n_heads": 4,
    "num_nextn_predict_layers": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DUMMY = ["--load-format", "dummy", "--chunked-prefill-size", "256"]


def written(path, config):
    """A model of ``config`` without weights, for ``DUMMY``."""
    path.mkdir()
    models.write_json(path / "config.json", config)
    models.write_tokenizer(path, config["vocab_size"], config["max_position_embeddings"])
    return path


@pytest.mark.once("0.5.23")
def test_glm5(tmp_path):
    """32 index heads, interleaved rope, and the fused key path, which has no Hadamard transform."""
    model = make_tiny(
        tmp_path / "model", family="glm5", index_topk=TOPK, layers=2, more={"index_n_heads": 32}
    )
    flags = ["--chunked-prefill-size", "256", "--enable-mixed-chunk"]
    with watched(tmp_path, model, SMALL, flags, pool_tokens=2048) as (server, counts):
        answers = shared_prefix_load(server, count=8, at_once=4)
        assert any(a["meta_info"]["cached_tokens"] >= 64 for a in answers), "no prefix was shared"
        assert_right(counts(), rows=2000, pruned=True)
        assert counts()["heads"] == [32] and counts()["fused"] == [True]
        assert server.receipts()[0]["layers"] == 2


def test_shared_layers_reuse_the_choice(tmp_path):
    """GLM-5.2's pattern: layers 2 and 4 have no indexer, and no index keys in 0.5.23."""
    config = {"layers": 5, "index_topk_freq": 2, "index_topk": TOPK}
    model = make_tiny(tmp_path / "model", family="glm5", **config)
    assert shared_layers({"num_hidden_layers": 5, "index_topk_freq": 2}) == [2, 4]
    flags = ["--chunked-prefill-size", "256", "--enable-return-indexer-topk"]
    with watched(tmp_path, model, SMALL, flags, pool_tokens=POOL_TOKENS) as (server, counts):
        answer = server.generate(text(700, 7), 6, return_indexer_topk=True)
        chosen = choices.decode(answer["meta_info"], 5, TOPK)
        late = np.arange(400, len(chosen))  # rows that are pruned
        same = [[np.array_equal(chosen[late, a], chosen[late, b]) for b in range(5)] for a in range(5)]
        groups = [0, 1, 1, 3, 3]
        assert same == [[groups[a] == groups[b] for b in range(5)] for a in range(5)]
        shared_prefix_load(server, count=6, at_once=3)
        assert_right(counts(), rows=2000, pruned=True)
        assert counts()["layers"] == [0, 1, 3]
        receipt = server.receipts()[0]
        assert receipt["layers"] == 3
        # A page of a choosing layer has a summary; 0.5.17 keeps index keys of the other layers as well.
        pages = (POOL_TOKENS + 64 + 1) // 64
        layers = 3 if contract.installed_version() == NEWEST else 5
        assert receipt["summary_bytes"] == layers * pages * SUMMARY_BYTES


def test_longcat_flash(tmp_path):
    """Two attentions a layer, of which the second one reuses the choice (``cli_factor``). Dummy weights."""
    model = written(tmp_path / "model", LONGCAT)
    with watched(tmp_path, model, SMALL, DUMMY, pool_tokens=2048) as (server, counts):
        shared_prefix_load(server, count=6, at_once=3)
        assert_right(counts(), rows=2000, pruned=True)
        assert counts()["layers"] == [0, 2]
        assert server.receipts()[0]["layers"] == 2


if contract.installed_version() == NEWEST:  # 0.5.17 does not know the model

    def test_hy_v4(tmp_path):
        """Attention sinks, hyper-connections, and ``indexer_types``: layer 2 reuses the choice of layer 1."""
        model = written(tmp_path / "model", HY_V4)
        with watched(tmp_path, model, SMALL, DUMMY, pool_tokens=2048) as (server, counts):
            first, second = server.generate(text(450, 1), 4), server.generate(text(450, 1) + text(60, 2), 4)
            assert first["meta_info"]["cached_tokens"] == 0 and second["meta_info"]["cached_tokens"] == 448
            assert_right(counts(), rows=1000, pruned=True)
            assert counts()["layers"] == [0, 1] and counts()["fused"] == [True]
            assert server.receipts()[0]["layers"] == 2
