"""``hisa bench``: measurements that a person can make again."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from sglang_hisa.launch.cli import checks
from sglang_hisa.launch.common.help import Help


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "bench",
        help="measure the indexer's kernels on this GPU, stock against HISA",
        description="Measures this machine; writes a record with versions, commit and command.",
        epilog="example:\n  hisa bench kernels --out h100.json",
        formatter_class=Help,
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", required=True)
    text = "one layer's indexer, stock against HISA, by context and batch; needs a GPU but no model"
    kernels = kinds.add_parser("kernels", help=text, add_help=False)  # --help is the benchmark's own
    kernels.set_defaults(run=partial(_run, "kernels"), passes_flags_on=True)
    text = "which launch settings of our kernels are fastest on this GPU; needs no model"
    tune = kinds.add_parser("tune", help=text, add_help=False)
    tune.set_defaults(run=partial(_run, "tune"), passes_flags_on=True)


def _run(kind: str, args: argparse.Namespace) -> int:
    """Run a benchmark with the flags that are left."""
    from sglang_hisa.launch.bench import kernels, tune

    offline = {"-h", "--help", "--render"} & {flag.partition("=")[0] for flag in args.rest}
    if not offline and checks.find_gpu() is None:
        print(
            f"hisa bench {kind}: torch sees no CUDA GPU; `hisa doctor` says what is missing", file=sys.stderr
        )
        return 1
    return {"kernels": kernels.main, "tune": tune.main}[kind](args.rest)
