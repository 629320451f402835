"""What must stop the process: wrong settings, unknown SGLang, missing patch targets, unserved features."""

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_hisa.config import from_mapping
from sglang_hisa.launch.common.models import DEEPSEEK_V32
from sglang_hisa.launch.common.server import cpu_env
from sglang_hisa.patches import contract
from sglang_hisa.patches.behaviours import BEHAVIOURS
from sglang_hisa.patches.features import FEATURES, declined
from sglang_hisa.patches.releases import NEWEST
from sglang_hisa.patches.table import PATCHES
from tests.sglang_copies import copy_named, write_metadata

VERSION = contract.installed_version()


def register(setting, *paths):
    """Exit code and stderr of a process that loads the plugin."""
    env = {**os.environ, "SGLANG_HISA": setting}
    env["PYTHONPATH"] = os.pathsep.join([*map(str, paths), env.get("PYTHONPATH", "")])
    code = "from sglang_hisa.patches import register; register()"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "setting,parts",
    [
        ('{"blok": 1}', ["blok", "did you mean 'block'"]),
        ('{"block": "big"}', ['"block": "big"', "64, 128, 256"]),
        ("{", ["not readable JSON"]),
        ('{"block": 100}', ['"block": 100', "multiple of the 64-token page"]),
    ],
)
def test_wrong_setting(setting, parts):
    code, message = register(setting)
    assert code == 1 and "refusing to start" in message
    assert all(part in message for part in parts)
    assert "Traceback" not in message


def fake_sglang(folder, version, edit=None):
    """A tree with the source files that the table names, and metadata that says ``version``."""
    root = copy_named(folder / "sglang", version)
    write_metadata(folder, version)
    if edit is not None:
        path = root / edit[0]
        text = path.read_text()
        assert edit[1] in text
        path.write_text(text.replace(edit[1], edit[2]))
    return folder


INDEXER = "srt/layers/attention/dsa/dsa_indexer.py"


@pytest.mark.parametrize(
    "old,new,part",
    [
        ("def _get_topk_paged(", "def _topk_paged(", "_get_topk_paged is not in"),
        ("self._get_topk_paged(", "self._other(", "no longer reaches it through"),
        ("def _get_topk_ragged(\n        self,", "def _get_topk_ragged(\n        self, more,", "more"),
    ],
    ids=["renamed", "bypassed", "signature"],
)
def test_moved_patch_target(tmp_path, old, new, part):
    code, message = register("balanced", fake_sglang(tmp_path, VERSION, (INDEXER, old, new)))
    assert code == 1 and "does not match the patch table" in message
    assert part in message and str(tmp_path / "sglang") in message
    assert f"\nFix: take {tmp_path} off PYTHONPATH\n" in message


def test_installed_sglang_matches_the_table():
    assert contract.check_installed() == []


def test_table_rows_are_complete():
    for patch in PATCHES:
        module, name = patch.hook.split(":")
        source = Path(contract.__file__).with_name(f"{module}.py").read_text()
        assert f"def {name}(" in source and patch.why and {patch.only, patch.unless} <= {"", *BEHAVIOURS}
    assert len({patch.hook for patch in PATCHES}) == len(PATCHES)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.hook)
def test_a_hook_takes_what_its_row_says(patch):
    """In the row's order, and any number of others only where the row allows them."""
    module, name = patch.hook.split(":")
    hook = inspect.signature(getattr(importlib.import_module(f"sglang_hisa.patches.{module}"), name))
    ours = [p for p in hook.parameters.values() if p.name not in ("original", "result")]
    open_ended = [p for p in ours if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    named = [p.name for p in ours if p not in open_ended]
    for place in patch.places:
        needed = [part.removesuffix("?") for part in place.params if part != "*"]
        assert named[: len(needed)] == needed[: len(named)]
        assert open_ended or (named == needed and "*" not in place.params)


@pytest.mark.parametrize("mode,applied", [("off", False), ("sample", True), ("full", True)])
def test_the_canary_costs_nothing_when_it_is_off(mode, applied):
    """Its patch, on every forward, is not even applied."""
    chosen = [patch for patch in PATCHES if patch.applies(from_mapping({"canary": mode}))]
    assert any(patch.hook == "canary:around_forward" for patch in chosen) is applied
    assert len(PATCHES) - len(chosen) == (0 if applied else 1)


def arguments(**changes):
    values = {feature.argument: None for feature in FEATURES}
    return SimpleNamespace(**{**values, **changes})


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.argument)
def test_unserved_feature_is_declined_with_its_fix(feature):
    asked = {"page_size": 32, "device": "xpu"}
    value = asked.get(feature.argument, 2 if feature.argument.endswith("_size") else "other")
    (reason,) = declined(arguments(**{feature.argument: value}), SimpleNamespace())
    assert reason.startswith(f"{feature.argument}={value}")
    assert f"fix: {feature.fix}" in reason and feature.why in reason
    without = arguments()
    delattr(without, feature.argument)
    reasons = declined(without, SimpleNamespace())
    assert bool(reasons) is not feature.optional, "an argument that each SGLang has is missed"


@pytest.mark.parametrize("algorithm", ["NGRAM", "STANDALONE", "EAGLE3", "DFLASH", "FROZEN_KV_MTP"])
def test_drafts_that_were_not_shown_are_declined(algorithm):
    served = arguments(speculative_algorithm="EAGLE", speculative_eagle_topk=1)
    assert declined(served, SimpleNamespace()) == []
    (reason,) = declined(arguments(speculative_algorithm=algorithm), SimpleNamespace())
    assert algorithm in reason and "--speculative-algorithm EAGLE" in reason
    (reason,) = declined(
        arguments(speculative_algorithm="EAGLE", speculative_eagle_topk=4), SimpleNamespace()
    )
    assert "--speculative-eagle-topk 1" in reason


def test_every_reason_is_listed_and_unknown_arguments_are_reasons():
    args = arguments(dcp_size=2, enable_lmcache=True)
    del args.enable_flexkv
    reasons = declined(args, SimpleNamespace(index_kpool=4))
    assert len(reasons) == 4
    assert any("enable_flexkv" in reason and "no longer has this argument" in reason for reason in reasons)
    assert any("index_kpool=4" in reason for reason in reasons)
    assert declined(arguments(), SimpleNamespace()) == []


def test_a_dsa_pool_inside_a_sliding_window_pool_is_declined():
    """Dots3: the server would start, with summaries, and fail in its first forward."""
    (reason,) = declined(arguments(), SimpleNamespace(is_hybrid_swa=True))
    assert reason.startswith("is_hybrid_swa") and "sliding-window layers" in reason
    assert "fix: serve stock DSA" in reason


def test_rocm_is_declined_although_it_is_called_cuda(monkeypatch):
    """0.5.23's AITER and gfx950 indexers store index keys in functions of their own."""
    monkeypatch.setattr("torch.version.hip", "6.4.43482")
    (reason,) = declined(arguments(device="cuda"), SimpleNamespace())
    assert reason.startswith("ROCm 6.4.43482: ") and "fix: use an NVIDIA GPU" in reason


@pytest.mark.parametrize("name,part", [("is_hybrid_swa", "sliding-window"), ("index_kpool", "index_kpool=4")])
def test_a_model_whose_text_part_says_so_is_declined_too(name, part):
    """GLM-5-Next's checkpoint has ``index_kpool`` there."""
    text = SimpleNamespace(text_config=SimpleNamespace(**{name: 4}))
    (reason,) = declined(arguments(), text)
    assert part in reason and "fix: serve stock DSA" in reason


LINEAR = """
import json, sys
from types import SimpleNamespace
from sglang_hisa.patches import scheduler
from sglang_hisa.patches.features import FEATURES, declined
for folder in sys.argv[1:]:
    args = SimpleNamespace(**{feature.argument: None for feature in FEATURES})
    args.model_path, args.trust_remote_code, args.json_model_override_args = folder, False, "{}"
    model = scheduler._hf_config(args)
    linear = scheduler._linear_attention(model)
    reasons = declined(args, model, linear_attention=linear)
    print(json.dumps([reasons, scheduler._not_dsa(model)]))
"""


def test_a_dsa_pool_beside_linear_attention_is_declined(tmp_path):
    """``HybridLinearKVPool``, by SGLang's own rule for its own configurations, with no weights at hand."""
    models = {
        "kimi": {"model_type": "kimi_linear"},
        "deepseek": DEEPSEEK_V32,
        "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    }
    if VERSION == NEWEST:
        models["glm"] = {"model_type": "glm5_next", "text_config": {"index_topk": 2048}}
        models["pooled"] = {"model_type": "glm5_next", "text_config": {"index_topk": 2048, "index_kpool": 4}}
    for name, config in models.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    argv = [sys.executable, "-c", LINEAR, *(str(tmp_path / name) for name in models)]
    done = subprocess.run(argv, env=cpu_env(os.environ, None), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    told = dict(zip(models, map(json.loads, done.stdout.splitlines()), strict=True))
    assert told["deepseek"] == [[], []]
    assert told["llama"][0] == [] and "LlamaForCausalLM is not a DeepSeek-Sparse" in told.pop("llama")[1][0]
    found = {name: reasons for name, (reasons, _) in told.items()}
    assert found.pop("deepseek") == []
    assert found.pop("kimi")[0].startswith("KimiLinearConfig: ")
    for reasons in found.values():
        assert "HybridLinearKVPool" in reasons[-1] and "fix: serve stock DSA" in reasons[-1]
    assert [len(reasons) for reasons in found.values()] == ([1, 2] if VERSION == NEWEST else [])
