"""Servers with made-up weights (``--load-format dummy``), whose times depend on how index scores differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sglang_hisa.config import ENV_DUMMY, SPREAD
from sglang_hisa.launch.common import flags


def makes_up(given: Sequence[str]) -> bool:
    """Whether a server with these flags makes up its weights."""
    return flags.parse(given).get("--load-format") == "dummy"


def spread_env(base: Mapping[str, str], given: Sequence[str]) -> dict[str, str]:
    """``base`` for a server with these flags, so that made-up weights have index scores that differ
    (:mod:`sglang_hisa.patches.made_up`), unless ``base`` says otherwise."""
    return {ENV_DUMMY: SPREAD, **base} if makes_up(given) else dict(base)


def spread(base: Mapping[str, str], given: Sequence[str]) -> bool:
    """Whether a server that is started in the environment ``base`` with these flags has such weights."""
    return makes_up(given) and spread_env(base, given)[ENV_DUMMY] == SPREAD
