"""Checks before a server starts: what SGLang itself would only log, if anything, and then serve stock DSA."""

from __future__ import annotations

from sglang_hisa.cli import plugins
from sglang_hisa.patches import plugin


def check(*, cpu: bool, hisa: bool) -> None:
    """Refuse to serve where SGLang would not load our plugins, or differs from the patch table.

    Args:
        cpu: the CPU stand-ins are needed.
        hisa: HISA is needed; stock SGLang without stand-ins needs nothing of us.

    Raises:
        SystemExit: with every reason and the fix.
    """
    names = [name for name, needed in (("hisa", hisa), ("hisa_cpu", cpu)) if needed]
    for name in names:
        found = plugins.problem(name)
        if found:
            plugin.refuse("SGLang would not load the plugin", [found[0]], found[1])
    if names:
        plugin.require_supported()
