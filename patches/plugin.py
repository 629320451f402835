"""Apply the patch table, or stop the process with every reason why it cannot be applied."""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from sglang_hisa import __version__
from sglang_hisa.config import Config, cpu_stand_ins_requested, only_ours
from sglang_hisa.patches import contract, runtime, syntax
from sglang_hisa.patches.contract import Applied

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reason:
    """One reason to refuse, with a fix of its own."""

    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.text}\n    fix: {self.fix}"


STOCK = "serve this model with stock DSA: unset SGLANG_HISA, or `hisa serve --stock`"
"""The fix where HISA does not know the model, whatever its settings."""


def refuse(what: str, reasons: Sequence[str | Reason], fix: str = "") -> NoReturn:
    """Stop the process with one message. Raises ``SystemExit`` (code 1); a worker ends without it.

    A worker's ``SystemExit`` waits for every thread, and NIXL's never ends: SGLang would wait for it.

    Args:
        what: what is wrong.
        reasons: all of them.
        fix: one for all; left out where each is a :class:`Reason` with its own.
    """
    lines = [f"  - {reason}" for reason in reasons]
    lines += [f"Fix: {fix}"] if fix else []
    message = "\n".join(
        [
            f"sglang-hisa {__version__}: refusing to start: {what}",
            *lines,
            "Unset SGLANG_HISA (or `hisa serve --stock`) to serve stock DSA.",
        ]
    )
    if multiprocessing.parent_process() is not None:
        print(message, file=sys.stderr, flush=True)
        os._exit(1)
    raise SystemExit(message)


def _hook(name: str) -> object:
    module, function = name.split(":")
    return getattr(importlib.import_module(f"sglang_hisa.patches.{module}"), function)


def _verify(patches: list[Applied]) -> None:
    """After SGLang applied all hooks (it only logs those that fail): ours must be in place."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    reasons = []
    for patch in patches:
        if patch.target not in HookRegistry._patched:
            reasons.append(f"{patch.target}: SGLang could not apply the hook (see its log above)")
        elif not hasattr(pkgutil.resolve_name(patch.target), "__wrapped__"):
            reasons.append(f"{patch.target}: something restored SGLang's original")
    if reasons:
        refuse("patches are missing", reasons, f"load HISA alone: {only_ours(cpu_stand_ins_requested())}")


def require_supported(config: Config | None = None) -> contract.Sglang:
    """The SGLang that is imported; refuses (see :func:`refuse`) one that is not to be patched."""
    found = contract.unfit(config)
    if found is not None:
        refuse(found.what, found.reasons, found.fix)
    return contract.read(contract.installed_root())


def activate(config: Config) -> None:
    """Check, then register every patch; SGLang applies them right after, and we check again."""
    sglang = require_supported(config)
    if sglang.unknown and config.canary == "off":
        config = replace(config, canary="sample")
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    patches = [applied for applied in sglang.patches if applied.patch.applies(config)]
    state = runtime.Runtime(config, sglang.name, len(patches))
    state.behaviours, state.unverified = sglang.behaviours, tuple(map(str, sglang.unknown))
    runtime.start(state)
    for applied in patches:
        HookRegistry.register(applied.target, _hook(applied.patch.hook), HookType(applied.patch.kind))
    if not cpu_stand_ins_requested():  # they read the source, too, and come after us
        syntax.forget()

    apply = HookRegistry.apply_hooks

    def apply_and_verify() -> None:
        apply()
        _verify(patches)

    # Not called here: hooks of plugins loaded after us on the same targets must still be applied.
    HookRegistry.apply_hooks = staticmethod(apply_and_verify)
    logger.info(
        "sglang-hisa %s: %d patches for SGLang %s, %s", __version__, len(patches), sglang.name, config
    )
