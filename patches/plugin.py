"""Apply the patch table, or stop the process with every reason why it cannot be applied."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import pkgutil
import sys
from typing import NoReturn

from sglang_hisa import __version__
from sglang_hisa.config import Config
from sglang_hisa.patches import contract, runtime
from sglang_hisa.patches.table import Patch, patches_for

logger = logging.getLogger(__name__)


def refuse(what: str, reasons: list[str], fix: str) -> NoReturn:
    """Stop the process with one message. Raises ``SystemExit`` (code 1); a worker ends without it.

    A worker's ``SystemExit`` waits for every thread, and NIXL's never ends: SGLang would wait for it.
    """
    lines = "\n".join(f"  - {reason}" for reason in reasons)
    message = (
        f"sglang-hisa {__version__}: refusing to start: {what}\n{lines}\n"
        f"Fix: {fix}\nUnset SGLANG_HISA to serve stock DSA."
    )
    if multiprocessing.parent_process() is not None:
        print(message, file=sys.stderr, flush=True)
        os._exit(1)
    raise SystemExit(message)


def _hook(name: str) -> object:
    module, function = name.split(":")
    return getattr(importlib.import_module(f"sglang_hisa.patches.{module}"), function)


def _verify(patches: list[Patch]) -> None:
    """After SGLang applied all hooks (it only logs those that fail): ours must be in place."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    reasons = []
    for patch in patches:
        if patch.target not in HookRegistry._patched:
            reasons.append(f"{patch.target}: SGLang could not apply the hook (see its log above)")
        elif not hasattr(pkgutil.resolve_name(patch.target), "__wrapped__"):
            reasons.append(f"{patch.target}: something put the original back")
    if reasons:
        refuse("patches are missing", reasons, "run `hisa doctor`, and remove plugins that conflict")


def require_supported() -> str:
    """Version of the installed SGLang; refuses (see :func:`refuse`) one that differs from the patch table."""
    version = contract.installed_version() or "none"
    problems = contract.check_installed()
    if problems:
        refuse(
            f"SGLang {version} does not match the patch table",
            problems,
            "install a supported SGLang; `hisa doctor` shows the table",
        )
    return version


def activate(config: Config) -> None:
    """Check, then register every patch; SGLang applies them right after, and we check again."""
    version = require_supported()
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    patches = [patch for patch in patches_for(version) if patch.applies(config)]
    runtime.start(runtime.Runtime(config, version, len(patches)))
    for patch in patches:
        HookRegistry.register(patch.target, _hook(patch.hook), HookType(patch.kind))

    apply = HookRegistry.apply_hooks

    def apply_and_verify() -> None:
        apply()
        _verify(patches)

    # Not called here: hooks of plugins loaded after us on the same targets must still be applied.
    HookRegistry.apply_hooks = staticmethod(apply_and_verify)
    logger.info("sglang-hisa %s: %d patches for SGLang %s, %s", __version__, len(patches), version, config)
