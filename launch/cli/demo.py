"""``hisa demo``: stock and HISA one after the other, the same requests, what each of them chose."""

from __future__ import annotations

import argparse
from pathlib import Path

from sglang_hisa.launch.common.help import Help


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "demo",
        help="serve a small model with stock and with HISA and compare; needs no GPU",
        description="Makes a small model, serves it with stock DSA and then with HISA, sends both the same "
        "requests (some longer than the budget, some partly cached), and compares what the two indexers "
        "chose. Uses the real kernels if there is a GPU, otherwise torch stand-ins on the CPU (about "
        "2 minutes). The exit code is 1 if a server does not start or does not run what it should.",
        epilog="example:\n  hisa demo --cpu",
        formatter_class=Help,
    )
    where = "folder for the model and the server logs (default: .hisa)"
    parser.add_argument("--dir", type=Path, default=Path(".hisa"), help=where)
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; 1 on a failed check, 130 when interrupted. The servers are stopped in every case."""
    from sglang_hisa.launch.cli import checks, preflight
    from sglang_hisa.launch.demo import arms
    from sglang_hisa.launch.demo import plan as plans

    gpu = None if args.cpu else checks.find_gpu()
    preflight.check(cpu=gpu is None, hisa=True)
    plan = plans.cpu_plan() if gpu is None else plans.gpu_plan()
    try:
        return arms.run(plan, args.dir)
    except KeyboardInterrupt:
        print("hisa demo: interrupted; the server is stopped")
        return 130
