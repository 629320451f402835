"""``hisa serve``: check the settings, then become SGLang's own launcher."""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from sglang_hisa import config
from sglang_hisa.config import Config, ConfigError, environment
from sglang_hisa.launch.cli import preflight, presets, usage
from sglang_hisa.launch.common import made_up, server
from sglang_hisa.launch.common.arms import parse_settings
from sglang_hisa.launch.common.help import Help, listed

_ABOUT = """\
Serves MODEL with HISA: sets SGLANG_HISA, checks the settings and the patched functions, and then becomes
`python -m sglang.launch_server --model-path MODEL`, so signals, logs and exit codes are SGLang's. Every
option that hisa does not know goes to SGLang unchanged.
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    keys = {
        name: f"{config.allowed(name)} (default: {default})"
        for name, default in presets.defaults().items()
        if name != "preset"
    }
    parser = commands.add_parser(
        "serve",
        help="serve a model with HISA, or with --stock without it",
        description=f"{_ABOUT}\n{presets.as_text()}",
        epilog="settings for --set, with balanced's defaults (`hisa presets` explains them):\n"
        + listed(keys, 22)
        + "\n\nexample:\n  hisa serve --preset paper --set prefill_tokens=16384 MODEL --tp 8",
        usage="hisa serve [--preset P] [--set KEY=VALUE]... [--stock] [--cpu] MODEL\n"
        "                  [SGLang flags...]",
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="model path or Hugging Face name")
    add_settings(parser)
    parser.add_argument("--stock", action="store_true", help="serve stock DSA, without SGLANG_HISA")
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="serve on a CPU, with torch stand-ins (for `hisa model tiny`)",
    )
    usage.settle(parser, run)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """``--preset`` and ``--set``, for :func:`requested`."""
    parser.add_argument(
        "--preset", metavar="P", help="preset to start from (default: that of SGLANG_HISA, or balanced)"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="change one setting of the preset; may be repeated",
    )


def requested(preset: str | None, pairs: Sequence[str]) -> Config:
    """The configuration of the flags over that of ``SGLANG_HISA``. Raises :class:`ConfigError`."""
    settings = parse_settings(pairs)
    if preset is None:
        current = config.from_env()
        base = {} if current is None else dataclasses.asdict(current)
    else:
        base = {"preset": preset}
    return config.from_mapping({**base, **settings})


def command_line(model: str, cpu: bool, flags: Sequence[str]) -> list[str]:
    """The launcher's argument vector. Later flags win in SGLang, so the caller's come last."""
    first = server.cpu_flags(model) if cpu else ["--model-path", model]
    return [sys.executable, "-m", "sglang.launch_server", *first, *flags]


def _execute(argv: list[str], env: dict[str, str]) -> NoReturn:
    shown = [f"{name}={shlex.quote(env[name])}" for name in (config.ENV, config.ENV_DUMMY) if name in env]
    print("hisa:", *shown, shlex.join(argv), file=sys.stderr, flush=True)
    os.execvpe(argv[0], argv, env)


def run(args: argparse.Namespace) -> int:
    """Check, then replace this process with SGLang. Returns only where a check failed (1)."""
    if args.stock and (args.preset is not None or args.settings):
        args.usage_error("--stock serves without HISA: drop --preset and --set, or drop --stock")
    flags = usage.check_flags(args, args.model)
    try:
        wanted = None if args.stock else requested(args.preset, args.settings)
    except ConfigError as error:
        print(f"sglang-hisa: refusing to start.\n{error}", file=sys.stderr)
        return 1
    hisa = None if wanted is None else config.setting(wanted)
    preflight.check(cpu=args.cpu, hisa=not args.stock, flags=flags, model=args.model, config=wanted)
    preflight.check_port(flags)
    make_env = server.cpu_env if args.cpu else server.child_env
    _execute(
        command_line(args.model, args.cpu, flags), make_env(made_up.spread_env(environment(), flags), hisa)
    )
