"""Configuration: presets, JSON, and one message for everything that is wrong."""

import dataclasses
import json

import pytest

from sglang_hisa import config
from sglang_hisa.config import ConfigError, check_model, from_env, parse


def test_unset_is_stock():
    assert from_env({}) is None


def test_presets_are_those_of_the_design():
    balanced, paper = parse("balanced"), parse("paper")
    assert parse("{}") == balanced == config.Config()
    assert (balanced.block, balanced.decode_tokens, balanced.prefill_tokens) == (64, 8192, 16384)
    assert (balanced.decode_fraction, balanced.prefill_fraction) == (1 / 16, 1 / 4)
    assert balanced.dense_last_chunk and not paper.dense_last_chunk
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
        ('{"block": 96}', ['"block": 96', "64, 128, 256", "page"]),
        ('{"block": "64"}', ['"block": "64"', "64, 128, 256"]),
        ('{"decode_tokens": true}', ['"decode_tokens": true', "index_topk"]),
        ('{"decode_tokens": 1.5}', ['"decode_tokens": 1.5']),
        ('{"prefill_fraction": 2}', ['"prefill_fraction": 2', "0 to 1"]),
        ('{"dense_last_chunk": 1}', ['"dense_last_chunk": 1', "true or false"]),
        ('{"refine": "cuda"}', ['"refine": "cuda"', "auto, deepgemm, triton"]),
        ('{"sink_tokens": -1}', ['"sink_tokens": -1', "0 or more"]),
        ('{"audit": -0.1}', ['"audit": -0.1']),
        ('{"canary": "all"}', ['"canary": "all"', "off, sample, full"]),
        ('{"canary": true}', ['"canary": true', "off, sample, full"]),
        ('{"canary_stop": true}', ['"canary_stop": true', 'needs "canary"']),
        ('{"canary_stop": "yes", "canary": "full"}', ['"canary_stop": "yes"', "true or false"]),
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
