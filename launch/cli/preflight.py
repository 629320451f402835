"""Checks before a server starts: what SGLang itself would only log, if anything, and then serve stock DSA."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_hisa.config import Config
from sglang_hisa.launch.cli import plugins
from sglang_hisa.patches import plugin, unreached


def check(*, cpu: bool, hisa: bool, flags: Sequence[str] = (), config: Config | None = None) -> None:
    """Refuse to serve where SGLang would not load our plugins, or cannot be patched.

    Args:
        cpu: the CPU stand-ins are needed.
        hisa: HISA is needed; stock SGLang without stand-ins needs nothing of us.
        flags: SGLang's flags.
        config: HISA's settings; without them each server judges an SGLang with unknown bodies itself.

    Raises:
        SystemExit: with every reason and the fix.
    """
    names = [name for name, needed in (("hisa", hisa), ("hisa_cpu", cpu)) if needed]
    for name in names:
        found = plugins.problem(name, names)
        if found:
            plugin.refuse("SGLang would not load the plugin", [found[0]], found[1])
    if hisa and unreached.asks_for_ray(flags):
        reason = "Ray's schedulers load no plugins, so they would serve stock DSA silently"
        plugin.refuse(f"HISA does not reach a server with {unreached.RAY}", [reason], f"drop {unreached.RAY}")
    if names:
        plugin.require_supported(config or Config(unverified_source=True))
