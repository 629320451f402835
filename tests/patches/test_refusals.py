"""What must stop the process: wrong settings, unknown SGLang, missing patch targets, unserved features."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_hisa.config import from_mapping, parse
from sglang_hisa.patches import batch, contract, runtime
from sglang_hisa.patches.features import FEATURES, declined
from sglang_hisa.patches.table import PATCHES, VERSIONS
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


def test_unknown_version(tmp_path):
    code, message = register("balanced", fake_sglang(tmp_path, "0.5.99"))
    assert code == 1
    assert "0.5.99 is not supported" in message and all(version in message for version in VERSIONS)
    assert "patch table" not in message, "none was compared"
    assert f"\nFix: take {tmp_path} off PYTHONPATH\n" in message, "pip would not replace it"
    assert "Unset SGLANG_HISA" in message


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
        assert f"def {name}(" in source and patch.why and set(patch.params) <= set(VERSIONS)
    assert len({patch.target for patch in PATCHES}) == len(PATCHES)


@pytest.mark.parametrize("mode,applied", [("off", False), ("sample", True), ("full", True)])
def test_the_canary_costs_nothing_when_it_is_off(mode, applied):
    """Its patch, on every forward, is not even applied."""
    chosen = [patch for patch in PATCHES if patch.applies(from_mapping({"canary": mode}))]
    assert any(patch.target.endswith("ModelRunner.forward") for patch in chosen) is applied
    assert len(PATCHES) - len(chosen) == (0 if applied else 1)


def arguments(**changes):
    values = {feature.argument: None for feature in FEATURES}
    return SimpleNamespace(**{**values, **changes})


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.argument)
def test_unserved_feature_is_declined_with_its_fix(feature):
    asked = {"page_size": 32, "device": "xpu"}
    value = asked.get(feature.argument, 2 if feature.argument.endswith("_size") else "other")
    for version in VERSIONS:
        reasons = declined(arguments(**{feature.argument: value}), SimpleNamespace(), version)
        if version in feature.versions:
            assert len(reasons) == 1 and reasons[0].startswith(f"{feature.argument}={value}")
            assert f"fix: {feature.fix}" in reasons[0] and feature.why in reasons[0]
        else:
            assert reasons == []


@pytest.mark.parametrize("algorithm", ["NGRAM", "STANDALONE", "EAGLE3", "DFLASH", "FROZEN_KV_MTP"])
def test_drafts_that_were_not_shown_are_declined(algorithm):
    served = arguments(speculative_algorithm="EAGLE", speculative_eagle_topk=1)
    assert declined(served, SimpleNamespace(), VERSION) == []
    (reason,) = declined(arguments(speculative_algorithm=algorithm), SimpleNamespace(), VERSION)
    assert algorithm in reason and "--speculative-algorithm EAGLE" in reason
    (reason,) = declined(
        arguments(speculative_algorithm="EAGLE", speculative_eagle_topk=4), SimpleNamespace(), VERSION
    )
    assert "--speculative-eagle-topk 1" in reason


def test_every_reason_is_listed_and_unknown_arguments_are_reasons():
    args = arguments(dcp_size=2, enable_lmcache=True)
    del args.enable_flexkv
    reasons = declined(args, SimpleNamespace(index_kpool=4), VERSION)
    assert len(reasons) == 4
    assert any("enable_flexkv" in reason and "no such argument" in reason for reason in reasons)
    assert any("index_kpool=4" in reason for reason in reasons)
    assert declined(arguments(), SimpleNamespace(), VERSION) == []


def test_a_dsa_pool_inside_a_sliding_window_pool_is_declined():
    """Dots3: the server would start, with summaries, and fail in its first forward."""
    (reason,) = declined(arguments(), SimpleNamespace(is_hybrid_swa=True), VERSION)
    assert "sliding-window layers" in reason and "fix: serve stock DSA" in reason


def test_prompts_of_an_extend_step():
    runtime.start(runtime.Runtime(parse("balanced"), VERSION, 1))
    told = []
    runtime.current().on_forward = lambda: told.append("forward")

    def req(rid, prompt, output=()):
        return SimpleNamespace(rid=rid, origin_input_ids=[0] * prompt, output_ids=list(output))

    def step(reqs, lengths, chunked=None, decode=False):
        mode = SimpleNamespace(is_extend_without_speculative=lambda: not decode)
        forward = SimpleNamespace(forward_mode=mode, extend_seq_lens_cpu=lengths, rids=[r.rid for r in reqs])
        batch.after_init_new(forward, None, SimpleNamespace(reqs=reqs, chunked_req=chunked), None)
        return forward

    middle, last, running, back = req("a", 700), req("b", 7), req("c", 30, [5]), req("d", 90, [5, 6])
    reqs, contexts = [last, middle, running, back], [7, 256, 31, 92]
    forward = step(reqs, [7, 256, 1, 92], chunked=middle)
    known = [7, 700, None, 92]
    assert batch.prompts(forward, contexts) == known, "a retracted request's answer is a part of its prompt"
    step([running], None, decode=True)
    assert batch.prompts(forward, contexts) == known, "decode steps change nothing"
    step([req("e", 41, [5])], [1], chunked=None)
    assert batch.prompts(forward, contexts) == contexts, "of the newest step only; else it ends here"
    single = req("f", 900)
    assert batch.prompts(step([single], [1], chunked=single), [400]) == [900], "a chunk of one token"
    assert batch.prompts(SimpleNamespace(rids=None), [9, 8]) == [9, 8]
    for decode, expected in ((True, [None, None]), (False, [40, 50])):
        mode = SimpleNamespace(is_decode=lambda decode=decode: decode)
        relabelled = SimpleNamespace(rids=["a", "b"], _original_forward_mode=mode)
        assert batch.prompts(relabelled, [40, 50]) == expected, "DP attention: an extend by name only"
    assert len(told) == 4, "metrics are told of every forward, decode steps too"
