"""The API key of the servers that this process asks: one for all, as a command has one ``--api-key``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sglang_hisa import config

HOW = f"--api-key KEY, or export {config.ENV_KEY}=KEY"
_SECRET = ("--api-key", "--admin-api-key")
_given: str | None = None


def use(key: str | None) -> None:
    """Take ``key`` from now on; None: that of the environment."""
    global _given
    _given = key


def from_flags(flags: Iterable[str]) -> str | None:
    """The ``--api-key`` among SGLang's flags."""
    words = list(flags)
    for here, after in zip(words, [*words[1:], ""]):
        if here == "--api-key":
            return after
        if here.startswith("--api-key="):
            return here.partition("=")[2]
    return None


def key() -> str:
    """The key in use; empty where there is none."""
    return config.api_key() if _given is None else _given


def headers() -> dict[str, str]:
    """What a request carries."""
    return {"Authorization": f"Bearer {key()}"} if key() else {}


def child(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` for a load generator or evaluation program, which take the key from ``OPENAI_API_KEY``."""
    return {**env, "OPENAI_API_KEY": key()} if key() else dict(env)


def redacted(words: Iterable[str]) -> list[str]:
    """``words`` of a command for a record: without keys."""
    shown: list[str] = []
    hide = False
    for word in words:
        name, equals, _ = word.partition("=")
        shown.append("***" if hide else f"{name}=***" if equals and name in _SECRET else word)
        hide = word in _SECRET
    return shown
