"""The whole model on N GPUs of one machine: DeepSeek-V3.2 in fp8 with made-up weights, as many layers as fit.

  python -m sglang_hisa.launch.whole --gpus 8 --out OUT
                                        all steps, as far as ten minutes go
  python -m sglang_hisa.launch.whole --gpus 8 --out OUT --steps ab-mtp
                                        one of them
  python -m sglang_hisa.launch.whole --gpus 8 --gpu-mib 143771 --plan
                                        what would run on 8 x H200
  python -m sglang_hisa.launch.whole --gpus 2 --out OUT --cpu
                                        rehearse with the tiny model

Call it again with the same --out until it says that nothing is left: rows that are right and times that
were measured stay. What --seconds cut off starts again; SGLang keeps the kernels that it compiled. Rows are
in OUT/eight-gpu.json (two-gpu.json, and so on), times in OUT/ab-8-gpu*.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sglang_hisa.config import environment
from sglang_hisa.launch.acceptance.whole import gpu_mib
from sglang_hisa.launch.common.help import tool
from sglang_hisa.launch.common.server import die_with
from sglang_hisa.launch.whole.steps import NUMBERS, Run, Step, steps

LEAST = 90
"""Seconds that a step needs for anything to come of it."""
GRACE = 25
"""Seconds in which a command that is asked to end has to have stopped its servers."""


def main(argv: list[str] | None = None) -> int:
    """Run, or print, the steps; 0: nothing is left, 1: call again, or look at what failed."""
    parser = tool("whole", "--gpus N", __doc__)
    parser.add_argument("--gpus", type=int, choices=NUMBERS, required=True, help="that the servers share")
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="records, models, logs")
    parser.add_argument("--steps", nargs="+", metavar="STEP", help="only these (default: all)")
    parser.add_argument("--seconds", type=float, default=560, help="end what runs after this long")
    parser.add_argument("--rounds", type=int, default=1, help="of each A/B; three give a verdict")
    parser.add_argument("--gpu-mib", type=int, metavar="N", help="memory of a GPU (default: nvidia-smi's)")
    parser.add_argument(
        "--plugins",
        type=Path,
        default=Path("tests/plugins"),
        metavar="DIR",
        help="of a checkout",
    )
    parser.add_argument("--cpu", action="store_true", help="rehearse: ranks on a CPU, the tiny model")
    parser.add_argument("--plan", action="store_true", help="only print the commands")
    args = parser.parse_args(argv)
    try:
        if not (args.plugins / "receipts").is_dir():
            raise ValueError(f"no plugins in {args.plugins}: run this in a checkout, or say --plugins DIR")
        mib = 0 if args.cpu else args.gpu_mib or gpu_mib()
        every = steps(Run(args.gpus, mib, args.out, args.cpu, args.rounds, args.plugins))
    except ValueError as error:
        parser.error(str(error))
    names = [step.name for step in every]
    if strange := [name for name in args.steps or () if name not in names]:
        parser.error(f"no such step: {', '.join(strange)}; allowed: {', '.join(names)}")
    chosen = [step for step in every if step.name in (args.steps or names)]
    if args.plan:
        print("\n".join(map(shown, chosen)))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # of `timeout`: what runs is ended as by Ctrl-C
    end = time.monotonic() + args.seconds
    left = {step.name: code for step in chosen if (code := run(step, end))}
    for name, why in left.items():
        print(f"{name}: {why}")
    print("call again, or look at what failed" if left else "nothing is left")
    return int(bool(left))


def shown(step: Step) -> str:
    """A step as it would be typed."""
    env = " ".join(f"{key}={shlex.quote(value)}" for key, value in step.env.items())
    lines = (f"{env} {shlex.join(command)}".strip() for command in step.commands)
    return "\n".join((f"# {step.name}: {step.shows}", *lines))


def run(step: Step, end: float) -> str:
    """Run a step until ``end`` on the clock of :func:`time.monotonic`; why it is not done, or nothing."""
    for command in step.commands:
        seconds = end - time.monotonic()
        if seconds < LEAST:
            return "not started, no time is left"
        print(f"\n$ {shlex.join(command)}", flush=True)
        if (code := call(command, merged(environment(), step.env), seconds)) is None:
            return "cut off"
        if code:
            return f"exit code {code}"
    return ""


def merged(base: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """``base`` with ``more``; to a path that both have, ``more`` is added."""
    paths = [path for path in (base.get("PYTHONPATH"), more.get("PYTHONPATH")) if path]
    return {**base, **more, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}


def call(command: tuple[str, ...], env: Mapping[str, str], seconds: float) -> int | None:
    """The exit code of a command; None of one that took longer and was ended, with its servers."""
    child = subprocess.Popen(command, env=dict(env), preexec_fn=partial(die_with, os.getpid()))
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            child.terminate()  # servers stop, measurements stay; behind a shell's `&` SIGINT is ignored
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()  # its servers notice
                child.wait()


if __name__ == "__main__":
    sys.exit(main())
