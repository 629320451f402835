"""How a command line names the arms of a comparison."""

from __future__ import annotations

import json

import pytest

from sglang_hisa.config import ConfigError
from sglang_hisa.launch.common.arms import Arm, parse_arm, parse_arms, parse_named

WIDE = '{"preset": "paper", "prefill_tokens": 32768}'


def test_an_arm_is_stock_a_preset_a_changed_preset_or_json() -> None:
    assert parse_arm("stock") == Arm("stock", None)
    assert parse_arm(" paper") == Arm("paper", '{"preset": "paper"}')
    assert parse_arm("base=stock") == Arm("base", None)
    assert parse_arm(f"wide={WIDE}") == Arm("wide", WIDE)
    assert parse_arm(WIDE).setting == WIDE
    for text, name in (("paper:block=64", "paper:block=64"), ("tight=paper:prefill_tokens=2048", "tight")):
        assert parse_arm(text).name == name
    tight = parse_arm("tight=paper:prefill_tokens=2048:block=64:canary=full")
    assert json.loads(tight.setting or "") == {
        **{"preset": "paper", "prefill_tokens": 2048},
        **{"block": 64, "canary": "full"},
    }


@pytest.mark.parametrize(
    "wrong",
    [
        *("nope", "", "paper:blok=64", "paper:block=63", "paper:block", "stock:block=64"),
        *("paper:preset=balanced", '{"prefil_tokens": 1}', "wide={", "=paper"),
    ],
)
def test_what_hisa_refuses_is_refused_by_the_name_of_the_arm(wrong: str) -> None:
    with pytest.raises(ConfigError):
        parse_arm(wrong)


def test_arms_named_twice_get_a_number() -> None:
    assert parse_arms("stock,stock") == (Arm("stock", None), Arm("stock#2", None))
    assert [arm.name for arm in parse_arms("paper, stock,paper,paper")] == [
        *("paper", "stock", "paper#2", "paper#3")
    ]
    for wrong in ("stock", "stock,papper", ""):
        with pytest.raises(ValueError):
            parse_arms(wrong)


def test_arms_of_the_users_own() -> None:
    assert parse_arms("stock,wide", {"wide": WIDE}) == (Arm("stock", None), Arm("wide", WIDE))
    assert parse_arms("stock,tight=paper:block=64")[1].name == "tight"
    with pytest.raises(ValueError, match=r"(?s)arm 'wide'.*prefil_tokens"):
        parse_arms("stock,wide", {"wide": '{"prefil_tokens": 1}'})


def test_a_setting_of_ones_own_has_a_name() -> None:
    assert parse_named(f"wide={WIDE}") == ("wide", WIDE)
    assert parse_named("tight=paper:block=64")[0] == "tight"
    for wrong in ("wide", WIDE, "=paper", "wide=", "base=stock"):
        with pytest.raises(ValueError, match="expected NAME=JSON"):
            parse_named(wrong)
