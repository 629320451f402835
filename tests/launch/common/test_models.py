"""Generated models: shapes as Hugging Face has them, one token a byte, and the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_hisa.launch.common import models
from sglang_hisa.patches import cpu as stand_ins


@pytest.fixture(autouse=True)
def _torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers decides once, for the whole process, whether there is a torchvision; SGLang's cache, which
    later tests import, needs the stand-in."""
    monkeypatch.syspath_prepend(str(Path(stand_ins.__file__).parent / "shims"))


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tiny_is_reproducible(tmp_path: Path) -> None:
    first = models.make_tiny(tmp_path / "a" / "b")
    assert first == tmp_path / "a" / "b"
    before = contents(first)
    assert sorted(before) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert contents(models.make_tiny(first)) == before
    assert len(before["model.safetensors"]) < 8 << 20


def test_tiny_settings(tmp_path: Path) -> None:
    folder = models.make_tiny(tmp_path, layers=2, index_topk=128, context=1 << 20, more={"index_n_heads": 8})
    config = config_of(folder)
    assert config["num_hidden_layers"] == 2 and config["index_topk"] == 128 and config["index_n_heads"] == 8
    real = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_head_dim": 128, "hidden_size": 128}
    assert real.items() <= config.items()
    assert config["max_position_embeddings"] == 1 << 20
    assert config_of(models.make_tiny(tmp_path))["max_position_embeddings"] == 163840


@pytest.mark.parametrize("family", models.FAMILIES)
def test_a_draft_layer_is_one_more_layer_that_feeds_on_the_last(tmp_path: Path, family: str) -> None:
    """The names that SGLang's loader of draft models looks for; all else is the model without drafts."""
    from safetensors.torch import load_file

    plain = models.make_tiny(tmp_path / "plain", family=family)
    drafting = models.make_tiny(tmp_path / "drafting", family=family, draft=True)
    configs = [config_of(folder) for folder in (plain, drafting)]
    assert configs[1] == {**configs[0], "num_nextn_predict_layers": 1}
    before, after = (load_file(folder / "model.safetensors") for folder in (plain, drafting))
    layer = "model.layers.3."
    added = {name.removeprefix(layer) for name in after.keys() - before.keys()}
    own = {f"{name}.weight" for name in ("enorm", "hnorm", "eh_proj", "shared_head.norm")}
    sparse = {name.removeprefix("model.layers.2.") for name in before if name.startswith("model.layers.2.")}
    assert added == own | sparse and not before.keys() - after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"lm_head.weight"}


@pytest.mark.parametrize("family", models.FAMILIES)
def test_tiny_weights_fit_the_model_of_transformers(tmp_path: Path, family: str) -> None:
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = models.make_tiny(tmp_path, family=family)
    ours = {name: tuple(value.shape) for name, value in load_file(folder / "model.safetensors").items()}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    theirs = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    unpacked = {name: shape for name, shape in ours.items() if ".mlp." not in name}
    assert unpacked == {name: shape for name, shape in theirs.items() if ".mlp." not in name}
    for part in ("layers.0.mlp.up_proj", "layers.1.mlp.gate", "layers.2.mlp.experts.3.down_proj"):
        assert f"model.{part}.weight" in ours


def test_tiny_of_another_family_and_with_shared_layers(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = models.make_tiny(
        tmp_path, family="glm5", layers=6, index_topk_freq=3, more={"index_n_heads": 32}
    )
    config = config_of(folder)
    real = {"index_n_heads": 32, "indexer_rope_interleave": True, "qk_nope_head_dim": 192, "v_head_dim": 256}
    assert (real | {"index_topk_freq": 3, "kv_lora_rank": 512}).items() <= config.items()
    assert "rope_scaling" not in config and config["architectures"] == ["GlmMoeDsaForCausalLM"]
    names = load_file(folder / "model.safetensors")
    with_indexer = {name.split(".")[2] for name in names if ".indexer." in name}
    assert with_indexer == {"0", "1", "4"} and models.shared_layers(config) == [2, 3, 5]
    with pytest.raises(ValueError, match="unknown family 'v4'; allowed: v32, glm5"):
        models.make_tiny(tmp_path, family="v4")


@pytest.mark.parametrize("make", ["tiny", *models.SLICES])
def test_one_token_a_byte(tmp_path: Path, make: str) -> None:
    from transformers import AutoTokenizer

    folder = models.make_tiny(tmp_path) if make == "tiny" else models.make_slice(make, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "needle: 42\n\té漢🙂"
    ids = tokenizer.encode(text)
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text
    config = config_of(folder)
    assert max(ids) < len(tokenizer) <= config["vocab_size"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        config["bos_token_id"],
        config["eos_token_id"],
    )
    assert tokenizer.model_max_length == config["max_position_embeddings"]


PUBLIC = {
    "v32": {"num_hidden_layers": 61, "n_routed_experts": 256, "num_nextn_predict_layers": 1},
    "v32-4l": {
        "architectures": ["DeepseekV32ForCausalLM"],
        "num_hidden_layers": 4,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "q_lora_rank": 1536,
        "index_n_heads": 64,
        "intermediate_size": 18432,
        "n_group": 8,
        "topk_group": 4,
        "vocab_size": 129280,
        "first_k_dense_replace": 3,
        "max_position_embeddings": 163840,
    },
    "v32-2l": {
        "num_hidden_layers": 2,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "index_n_heads": 64,
        "first_k_dense_replace": 3,
    },
    "v32-tp8-rank": {
        "num_hidden_layers": 61,
        "hidden_size": 7168,
        "num_attention_heads": 16,
        "index_n_heads": 64,
        "intermediate_size": 2304,
        "first_k_dense_replace": 61,
        "vocab_size": 16160,
    },
    "glm5-4l": {
        "architectures": ["GlmMoeDsaForCausalLM"],
        "num_hidden_layers": 4,
        "hidden_size": 6144,
        "num_attention_heads": 64,
        "q_lora_rank": 2048,
        "index_n_heads": 32,
        "indexer_rope_interleave": True,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "max_position_embeddings": 202752,
    },
    "glm52-4l": {"index_topk_freq": 2, "num_hidden_layers": 4, "hidden_size": 6144, "index_n_heads": 32},
}


@pytest.mark.parametrize("name", models.SLICES)
def test_slices(tmp_path: Path, name: str) -> None:
    from transformers import AutoConfig

    folder = models.make_slice(name, tmp_path / name)
    assert sorted(contents(folder)) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    config = config_of(folder)
    both = {"index_topk": 2048, "index_head_dim": 128, "kv_lora_rank": 512, "num_nextn_predict_layers": 0}
    assert (both | PUBLIC[name]).items() <= config.items()
    assert ("quantization_config" in config) == (name == "v32")
    parsed = AutoConfig.from_pretrained(folder)
    assert parsed.num_hidden_layers == config["num_hidden_layers"]
    assert parsed.index_topk == 2048 and parsed.index_n_heads == config["index_n_heads"]
    before = contents(folder)
    assert contents(models.make_slice(name, folder)) == before


def test_fewer_layers(tmp_path: Path) -> None:
    few = config_of(models.make_slice("v32", tmp_path / "few", layers=4))
    assert few == {**config_of(models.make_slice("v32", tmp_path / "all")), "num_hidden_layers": 4}
    said = "deepseek_v32, 4 layers of width 7168, 64 index heads, dummy weights, fp8"
    assert models.described(tmp_path / "few") == said
    with pytest.raises(ValueError, match="62 layers are not allowed; v32 has 61, allowed: 1 to 61"):
        models.make_slice("v32", tmp_path, layers=62)


def test_sglang_makes_fp8_weights_up(tmp_path: Path) -> None:
    """As it reads the configuration: blocks of 128 x 128; its dummy loader fills them with finite numbers."""
    from sglang.srt.layers.quantization.fp8 import Fp8Config
    from sglang.srt.model_loader.weight_utils import initialize_dummy_weights

    config = Fp8Config.from_config(config_of(models.make_slice("v32", tmp_path))["quantization_config"])
    assert config.weight_block_size == [128, 128] and config.is_checkpoint_fp8_serialized
    made = torch.nn.Module()
    made.weight = torch.nn.Parameter(torch.zeros(256, 384, dtype=torch.float8_e4m3fn), requires_grad=False)
    made.weight_scale_inv = torch.nn.Parameter(torch.zeros(2, 3), requires_grad=False)
    initialize_dummy_weights(made)
    weight, scale = made.weight.float(), made.weight_scale_inv
    assert weight.isfinite().all() and 100 < weight.count_nonzero() < weight.numel()
    assert scale.isfinite().all() and scale.count_nonzero() == 6


def test_glm_slice_is_the_default_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoConfig, GlmMoeDsaConfig

    ours = AutoConfig.from_pretrained(models.make_slice("glm5-4l", tmp_path)).to_dict()
    theirs = GlmMoeDsaConfig(num_hidden_layers=4).to_dict()
    ignored = {"architectures", "bos_token_id", "eos_token_id", "rope_parameters", "dtype", "_name_or_path"}
    assert {k: (v, ours.get(k)) for k, v in theirs.items() if k not in ignored and ours.get(k) != v} == {}


def test_context(tmp_path: Path) -> None:
    long = config_of(models.make_slice("v32-4l", tmp_path, 1 << 20))
    assert long["max_position_embeddings"] == 1 << 20 and long["rope_scaling"]["factor"] == 256
    short = config_of(models.make_slice("v32-4l", tmp_path, 4096))
    assert short["max_position_embeddings"] == 163840 and short["rope_scaling"]["factor"] == 40
    glm = config_of(models.make_slice("glm5-4l", tmp_path, 500_000))
    assert glm["max_position_embeddings"] == 500_000 and "rope_scaling" not in glm


@pytest.mark.parametrize("context", [0, -1, (1 << 20) + 1])
def test_context_out_of_range(tmp_path: Path, context: int) -> None:
    for make in (
        lambda out: models.make_slice("v32-4l", out, context),
        lambda out: models.make_tiny(out, context=context),
    ):
        with pytest.raises(ValueError, match="allowed: 1 to 1048576 tokens"):
            make(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_unknown_slice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'v4'; allowed: {', '.join(models.SLICES)}"):
        models.make_slice("v4", tmp_path)


def test_small_has_weights_at_full_index_geometry(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = models.make_small(tmp_path, family="glm5", index_heads=32, index_topk_freq=2, layers=4)
    config, weights = config_of(folder), load_file(folder / "model.safetensors")
    assert (
        config["index_topk"] == 2048 and config["num_attention_heads"] == 16 and config["hidden_size"] == 512
    )
    assert weights["model.layers.1.self_attn.indexer.wq_b.weight"].shape == (32 * 128, 64)
    assert "model.layers.2.self_attn.indexer.wq_b.weight" not in weights, "layer 2 reuses layer 1's choice"
    assert not any("experts" in name for name in weights)
    assert models.described(folder) == "glm_moe_dsa, 4 layers of width 512, 32 index heads, own weights"
    assert config_of(models.make_small(tmp_path))["index_n_heads"] == 64
    sliced = models.make_slice("v32-2l", tmp_path / "slice")
    assert models.described(sliced) == "deepseek_v32, 2 layers of width 7168, 64 index heads, dummy weights"
