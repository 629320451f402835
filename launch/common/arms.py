"""The arms of a comparison, and how a command line names them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_hisa.config import ConfigError, parse

STOCK = "stock"


@dataclass(frozen=True)
class Arm:
    """``setting`` is the value of ``SGLANG_HISA``; None serves stock DSA."""

    name: str
    setting: str | None


def parse_settings(pairs: Sequence[str]) -> dict[str, object]:
    """``KEY=VALUE`` texts -> settings; a VALUE that is not JSON is a string. Raises :class:`ConfigError`."""
    settings: dict[str, object] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair!r} is not KEY=VALUE, for example --set prefill_tokens=16384")
        if key == "preset":
            raise ConfigError(f"--set {pair!r}: name the preset with --preset")
        try:
            settings[key] = json.loads(text)
        except json.JSONDecodeError:
            settings[key] = text
    return settings


def parse_arm(text: str, defaults: Mapping[str, Any] | None = None) -> Arm:
    """``stock``, ``paper``, ``paper:block=64`` or JSON as in ``SGLANG_HISA``, or ``NAME=`` and one of these.

    Without a name, the text names the arm. ``defaults`` are settings of HISA that the text may change.

    Raises:
        ConfigError: unknown preset, or a setting that HISA refuses.
    """
    text = text.strip()
    named = re.fullmatch(r"([^:={]+)=(.+)", text, re.DOTALL)
    name, wanted = named.groups() if named else (text, text)
    if wanted == STOCK:
        return Arm(name, None)
    if not wanted.startswith("{"):
        preset, *pairs = wanted.split(":")
        wanted = json.dumps({"preset": preset, **parse_settings(pairs)})
    if defaults:
        wanted = json.dumps({**defaults, **json.loads(wanted)})
    try:
        parse(wanted)
    except ConfigError as error:
        raise ConfigError(f"arm {name!r}: {error}") from None
    return Arm(name, wanted)


def parse_named(text: str) -> tuple[str, str]:
    """``NAME=JSON`` -> both; any other setting of :func:`parse_arm` will do, too. Raises ``ValueError``."""
    arm = parse_arm(text) if re.match(r"[^:={]+=.", text.strip()) else None
    if arm is None or arm.setting is None:
        raise ValueError(f'--arm {text}: expected NAME=JSON, for example wide={{"prefill_tokens": 32768}}')
    return arm.name, arm.setting


def parse_arms(text: str, settings: Mapping[str, str] | None = None) -> tuple[Arm, ...]:
    """``stock,balanced,tight=paper:block=64`` -> arms; one named twice gets a number (``stock,stock`` is an
    A/A run).

    ``settings`` are arms of the user's own: name -> value of ``SGLANG_HISA``.

    Raises:
        ValueError: fewer than two arms, or one that is neither ``stock``, a preset nor a right setting.
    """
    own = settings or {}
    arms: list[Arm] = []
    for given in map(str.strip, text.split(",")):
        arm = parse_arm(f"{given}={own[given]}" if given in own else given)
        again = sum(one.name.partition("#")[0] == arm.name for one in arms)
        arms.append(Arm(f"{arm.name}#{again + 1}", arm.setting) if again else arm)
    if len(arms) < 2:
        raise ValueError("a comparison needs two arms; an example: stock,balanced")
    return tuple(arms)
