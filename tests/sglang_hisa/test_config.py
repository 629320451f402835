"""Configuration: presets, JSON, and one message for everything that is wrong."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_hisa import config
from sglang_hisa.config import ConfigError, check_model, from_env, parse


def test_unset_is_stock():
    assert from_env({}) is None


def test_presets_are_those_of_the_design():
    balanced, paper = parse("balanced"), parse("paper")
    assert parse("{}") == balanced == config.Config()
    assert (balanced.block, balanced.decode_tokens, balanced.prefill_tokens) == (64, 32768, 32768)
    assert (balanced.decode_fraction, balanced.prefill_fraction) == (1 / 16, 1 / 4)
    assert balanced.dense_tail_tokens == 1024 and paper.dense_tail_tokens == 0
    assert (balanced.prefill_heads, balanced.prefill_group) == (0.25, 8)
    for other in ("decode-only", "paper", "paper-4to1"):
        assert (parse(other).prefill_heads, parse(other).prefill_group) == (1, 2)
    assert (paper.block, paper.decode_tokens, paper.prefill_tokens) == (128, 8192, 8192)
    assert paper.decode_fraction == paper.prefill_fraction == 0
    assert not parse("decode-only").prefill.active and parse("decode-only").decode.active
    assert parse("paper-4to1").decode_fraction == parse("paper-4to1").prefill_fraction == 0.25


def test_json_changes_a_preset():
    got = parse('{"preset": "paper", "sink_tokens": 128, "decode_fraction": 1}')
    assert got == dataclasses.replace(parse("paper"), sink_tokens=128, decode_fraction=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        got.block = 64


@pytest.mark.parametrize(
    "text,parts",
    [
        ("fast", ["preset", '"fast"', "balanced, decode-only, paper, paper-4to1"]),
        ("", ["not readable JSON", "balanced"]),
        ('{"block": 64', ["not readable JSON", '{"block": 64']),
        ("[1]", ["preset name or a JSON object", "[1]"]),
        ('{"blok": 64}', ["unknown key", "blok", "64", "did you mean 'block'", "decode_tokens"]),
        ('{"summary": "salient"}', ["unknown key", '"summary" (value "salient")', "allowed: preset, block"]),
        ('{"short_graphs": false}', ["short_graphs", "false", "it is now called 'stock_decode_graphs'"]),
        ('{"block": 96}', ['"block": 96', "64, 128, 256", "page"]),
        ('{"block": "64"}', ['"block": "64"', "64, 128, 256"]),
        ('{"decode_tokens": true}', ['"decode_tokens": true', "index_topk"]),
        ('{"decode_tokens": 1.5}', ['"decode_tokens": 1.5']),
        ('{"prefill_fraction": 2}', ['"prefill_fraction": 2', "0 to 1"]),
        ('{"stock_decode_graphs": 1}', ['"stock_decode_graphs": 1', "true or false"]),
        ('{"dense_tail_tokens": -1}', ['"dense_tail_tokens": -1', "0 or more"]),
        ('{"refine": "cuda"}', ['"refine": "cuda"', "auto, deepgemm, triton"]),
        ('{"sink_tokens": -1}', ['"sink_tokens": -1', "0 or more, at most 2147483647"]),
        ('{"sink_tokens": 1%s}' % ("0" * 40), ["sink_tokens", "0 or more, at most 2147483647"]),
        ('{"decode_tokens": 2147483648}', ['"decode_tokens": 2147483648', "2147483647"]),
        ('{"workspace_mb": 1e3}', ['"workspace_mb": 1000.0', "16 or more"]),
        ('{"workspace_mb": 99999999}', ["workspace_mb", "at most 1048576"]),
        ('{"audit": NaN}', ['"audit": NaN', "0 (off) to 1"]),
        ('{"decode_fraction": Infinity}', ['"decode_fraction": Infinity', "0 to 1"]),
        ('{"decode_fraction": null}', ['"decode_fraction": null', "0 to 1"]),
        ('{"block": [64]}', ['"block": [64]', "64, 128, 256"]),
        ('{"preset": {"preset": "paper"}}', ["preset", "balanced"]),
        ('{"block": 64, "block": 128}', ['"block"', "more than once"]),
        ('{"block": %s}' % ("9" * 5000), ["not readable JSON", "digits", "characters"]),
        ("[" * 100_000, ["not readable JSON", "characters"]),
        ('{"block": 64} {}', ["not readable JSON", "Extra data"]),
        ("{'block': 64}", ["not readable JSON", "double quotes"]),
        ("\x00", ["preset"]),
        ('{"audit": -0.1}', ['"audit": -0.1']),
        ('{"canary": "all"}', ['"canary": "all"', "off, sample, full"]),
        ('{"canary": true}', ['"canary": true', "off, sample, full"]),
        ('{"canary_stop": true}', ['"canary_stop": true', 'needs "canary"']),
        ('{"canary_stop": "yes", "canary": "full"}', ['"canary_stop": "yes"', "true or false"]),
        ('{"unverified_gpu": 1}', ['"unverified_gpu": 1', "true or false"]),
        ('{"preset": 3}', ["preset", "3"]),
    ],
)
def test_wrong_settings_are_named(text, parts):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    for part in ["SGLANG_HISA", *parts]:
        assert part in str(caught.value)


def test_every_problem_is_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        parse('{"block": 1, "audit": 7, "nope": 0}')
    assert all(name in str(caught.value) for name in ("block", "audit", "nope"))


def test_budget_must_hold_the_models_topk():
    small = parse('{"decode_tokens": 1024, "prefill_tokens": 2048}')
    problems = check_model(small, index_topk=2048, page_size=64)
    assert len(problems) == 1 and "decode_tokens" in problems[0]
    assert "1024" in problems[0] and "2048" in problems[0]
    assert check_model(parse("decode-only"), 2048, 64) == []
    assert "pages of 64" in check_model(config.Config(), 2048, 32)[0]


def test_round_trip():
    got = parse('{"preset": "paper", "audit": 0.5}')
    assert parse(got.to_json()) == got
    assert set(json.loads(got.to_json())) == {f.name for f in dataclasses.fields(config.Config)}


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([f.name for f in dataclasses.fields(config.Config)]) | st.text(max_size=20)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(text=st.text() | st.dictionaries(KEYS, ANY, max_size=5).map(json.dumps) | ANY.map(json.dumps))
def test_any_text_is_a_configuration_or_one_readable_message(text):
    """SGLang would swallow any other exception and serve stock DSA."""
    try:
        got = parse(text)
    except ConfigError as error:
        message = str(error)
        assert "SGLANG_HISA" in message and "allowed" in message.replace("must be", "allowed")
        assert max(map(len, message.splitlines())) < 1200
    else:
        assert parse(got.to_json()) == got


COMPUTED = {
    "block": 128,
    "decode_tokens": 40000,
    "decode_fraction": 0.5,
    "prefill_tokens": 40000,
    "prefill_fraction": 0.5,
    "prefill_group": 1,
    "prefill_heads": 0.5,
    "dense_tail_tokens": 0,
    "sink_tokens": 128,
    "local_tokens": 128,
    "stock_decode_graphs": False,
}
"""A value unlike the default of each setting that changes what is computed."""
WATCHES = {
    "audit": 0.5,
    "canary": "full",
    "canary_stop": True,
    "workspace_mb": 64,
    "unverified_gpu": True,
    "unverified_source": True,
}
ROUNDS = {"refine": "triton", "kernels": "torch"}


def test_the_fingerprint_is_of_what_is_computed():
    """Pages in HiCache storage are shared by it, so it must last: the digest is written here."""
    assert parse("balanced").fingerprint() == "f23a83b225868298"
    given = [parse(name) for name in config.PRESETS] + [
        parse(json.dumps({k: v})) for k, v in COMPUTED.items()
    ]
    assert len({one.fingerprint() for one in given}) == len(given)
    same = parse(json.dumps({**WATCHES, **ROUNDS, "preset": "paper"}))
    assert same.fingerprint() == parse("paper").fingerprint()
    copy = {key: getattr(parse("paper"), key) for key in COMPUTED}
    assert parse(json.dumps(copy)).fingerprint() == parse("paper").fingerprint(), "whatever its name"
    assert {*COMPUTED, *WATCHES, *ROUNDS, "preset"} == {f.name for f in dataclasses.fields(config.Config)}


def test_a_phase_of_stock_dsa_leaves_its_settings_out_of_the_fingerprint():
    def fingerprint(**given):
        return parse(json.dumps({"preset": "decode-only", **given})).fingerprint()

    assert fingerprint() == fingerprint(prefill_group=1, prefill_fraction=0.5, dense_tail_tokens=5)
    assert fingerprint() != fingerprint(decode_tokens=40000)
    assert fingerprint(decode_tokens=0, block=128) is None, "nothing is left of HISA"
    assert fingerprint(decode_fraction=1) == fingerprint(decode_fraction=1.0)
