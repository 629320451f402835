"""Which plugins SGLang will find in this Python environment: entry points, read without importing them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from sglang_hisa import config

GROUP = "sglang.srt.plugins"
OURS = {"hisa": "sglang_hisa.patches:register", "hisa_cpu": "sglang_hisa.patches.cpu:register"}


@dataclass(frozen=True)
class Plugin:
    """One entry point of SGLang's plugin group."""

    name: str
    value: str
    distribution: str


def installed() -> list[Plugin]:
    """Every plugin that SGLang would find, of all distributions."""
    return [
        Plugin(entry.name, entry.value, entry.dist.name if entry.dist else "?")
        for entry in metadata.entry_points(group=GROUP)
    ]


def problem(name: str, needed: Sequence[str]) -> tuple[str, str] | None:
    """Why SGLang would not load our plugin ``name``, and the fix; None when it will.

    ``needed`` are all of ours that must be loaded: one fix serves them together.
    """
    found = [plugin for plugin in installed() if plugin.name == name]
    if not found:
        return (
            f'the entry point "{name}" of {GROUP} is not visible to {sys.executable}, so SGLang would serve '
            "stock DSA silently",
            "in the folder of sglang-hisa's pyproject.toml: pip install --no-deps .",
        )
    foreign = [plugin for plugin in found if plugin.value != OURS[name]]
    if foreign:
        return (
            f'the entry point "{name}" is {foreign[0].value} of {foreign[0].distribution}, not {OURS[name]}',
            f"pip uninstall {foreign[0].distribution}",
        )
    allowed = config.plugin_whitelist()
    if allowed is not None and name not in allowed:
        more = [*allowed, *(own for own in needed if own not in allowed)]
        return (
            f'SGLANG_PLUGINS={",".join(allowed)} keeps SGLang from loading the plugin "{name}"',
            f"export SGLANG_PLUGINS={','.join(more)}",
        )
    return None
