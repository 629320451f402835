"""``hisa bench``: measurements that a person can make again."""

from __future__ import annotations

import argparse
import sys

from sglang_hisa.cli import checks


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "bench",
        help="measure the indexer's kernels on this GPU, stock against HISA",
        description="Measurements on this machine; each writes a record with versions, commit and command.",
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", required=True)
    text = "one layer's indexer, stock against HISA, by context and batch; needs a GPU but no model"
    kernels = kinds.add_parser("kernels", help=text, add_help=False)  # --help is the benchmark's own
    kernels.set_defaults(run=run_kernels, passes_flags_on=True)


def run_kernels(args: argparse.Namespace) -> int:
    """Run the kernel benchmark with the flags that are left."""
    from sglang_hisa.launch import bench_kernels

    offline = {"-h", "--help", "--render"} & {flag.partition("=")[0] for flag in args.rest}
    if not offline and checks.find_gpu() is None:
        print(
            "hisa bench kernels: torch sees no CUDA GPU; `hisa doctor` says what is missing", file=sys.stderr
        )
        return 1
    return bench_kernels.main(args.rest)
