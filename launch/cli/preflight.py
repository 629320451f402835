"""Checks before a server starts: what SGLang would only log, if anything, or tell after the weights."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

from sglang_hisa.config import Config
from sglang_hisa.launch.cli import checks, cuda, plugins
from sglang_hisa.launch.common import auth, model_config
from sglang_hisa.launch.common.server import ServerFailed, check_free
from sglang_hisa.patches import architectures, plugin, unreached
from sglang_hisa.patches.flags import value_of
from sglang_hisa.patches.plugin import Reason

_REPORTS = ("scipy", "jinja2", "matplotlib")
"""What reports are made with; matplotlib may be missing, as then they have no plots."""


def has(module: str) -> bool:
    """Whether this Python could import ``module``."""
    return importlib.util.find_spec(module) is not None


def config_of(model: str, flags: Sequence[str]) -> dict[str, object] | None:
    """config.json of ``model`` with what ``flags`` override; None where it cannot be read from here.

    Raises:
        model_config.ModelProblem: there is no such model.
    """
    config = model_config.read(model)
    try:
        override = json.loads(value_of(flags, "--json-model-override-args") or "{}")
    except ValueError:
        override = {}  # SGLang says what is wrong with it
    return None if config is None else {**config, **override}


def check(
    *,
    cpu: bool,
    hisa: bool,
    flags: Sequence[str] = (),
    model: str | None = None,
    config: Config | None = None,
) -> None:
    """Refuse to serve where SGLang would not load our plugins, cannot be patched, or could not start.

    Args:
        cpu: the CPU stand-ins are needed.
        hisa: HISA is needed; stock SGLang without stand-ins needs nothing of us.
        flags: SGLang's flags.
        model: what is to be served.
        config: HISA's settings; without them each server judges an SGLang with unknown bodies itself.

    Raises:
        SystemExit: with every reason, each with its fix.
    """
    auth.use(auth.from_flags(flags))
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
    reasons = _machine(flags) if hisa and not cpu else []
    if model is not None and names:
        reasons += _model(model, flags)
    if reasons:
        _stop("this server would not start", *reasons)


def _stop(what: str, *reasons: Reason) -> NoReturn:
    """Ends with one message; nothing of HISA's is at fault, so it does not tell how to leave HISA out."""
    raise SystemExit("\n".join([f"hisa: {what}", *(f"  - {reason}" for reason in reasons)]))


def _machine(flags: Sequence[str]) -> list[Reason]:
    """What a GPU server needs of this machine and its Python."""
    reasons = []
    if value_of(flags, "--device") not in ("cpu", "npu", "xpu") and not cuda.count():
        text = "the CUDA driver shows no GPU (nvidia-smi, CUDA_VISIBLE_DEVICES)"
        fix = "serve on an NVIDIA GPU; without one: hisa demo, or hisa model tiny M && hisa serve --cpu M"
        reasons.append(Reason(text, fix))
    return reasons + _torchvision("SGLang imports at start")


def _torchvision(needed: str) -> list[Reason]:
    if has("torchvision"):
        return []
    return [Reason(f"torchvision is missing, which {needed}", checks.install("torchvision"))]


def check_generator() -> None:
    """Refuse to measure without what SGLang's load generator imports. Raises ``SystemExit``."""
    if reasons := _torchvision("SGLang's load generator imports"):
        _stop("the load generator would not start (--cpu uses a stand-in for it)", *reasons)


def _model(model: str, flags: Sequence[str]) -> list[Reason]:
    try:
        config = config_of(model, flags)
    except model_config.ModelProblem as problem:
        return [Reason(str(problem), problem.fix)]
    if config is None:
        print(
            f"hisa: config.json of {model} cannot be read from here, so the model is not checked yet; SGLang "
            "checks it before it loads weights",
            file=sys.stderr,
        )
        return []
    why = architectures.not_dsa(config)
    return [Reason(why, plugin.STOCK)] if why else []


def check_port(flags: Sequence[str]) -> None:
    """Refuse a port that another server listens on. Raises ``SystemExit``."""
    text = value_of(flags, "--port") or "30000"
    try:
        check_free(int(text), patience=0)
    except ServerFailed as error:
        fix = f"stop that server, or take another port: --port {int(text) + 1}"
        _stop("the port is taken", Reason(str(error), fix))
    except (ValueError, OverflowError):
        pass  # SGLang says what is wrong with it


def check_reports() -> None:
    """Refuse a measurement whose report could not be made; say at once where it will have no plots.

    Raises:
        SystemExit: scipy or jinja2 is missing.
    """
    missing = [name for name in _REPORTS if not has(name)]
    fix = f"pip install {' '.join(missing)}"
    needed = [name for name in missing if name != "matplotlib"]
    if needed:
        _stop("no report could be made", Reason(f"not installed: {', '.join(needed)}", fix))
    if missing:
        print(f"hisa: no matplotlib, so the report will have no plots; to have them: {fix}", file=sys.stderr)
