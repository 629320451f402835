"""``hisa model``: make model folders to try HISA on without downloading weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from sglang_hisa import models


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "model",
        help="make a tiny random model (CPU) or a slice of DeepSeek-V3.2 (GPU)",
        description="Make a model folder to try HISA on; no weights are downloaded.",
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", required=True)
    tiny = kinds.add_parser(
        "tiny",
        help="3 random DeepSeek-V3.2 layers and a byte tokenizer, for a CPU",
        description="A random DeepSeek-V3.2 of 3 layers with its byte tokenizer: 6 MB, serves on a CPU.",
    )
    tiny.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    tiny.set_defaults(run=run_tiny)
    part = kinds.add_parser(
        "slice",
        help="a DeepSeek-V3.2 that fits one GPU, for --load-format dummy",
        description="Configuration and tokenizer of a part of DeepSeek-V3.2 that fits one GPU; the server "
        "makes the weights up (--load-format dummy).",
    )
    part.add_argument("name", metavar="NAME", choices=sorted(models.SLICES), help=" | ".join(models.SLICES))
    part.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    part.add_argument("--context", type=int, metavar="N", help="longest context in tokens")
    part.set_defaults(run=run_slice)


def _done(out: Path, flags: str) -> int:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{out}: written. Serve it: hisa serve {flags.format(out=out)}", markup=False)
    return 0


def run_tiny(args: argparse.Namespace) -> int:
    """Write the tiny model."""
    models.tiny(args.out)
    return _done(args.out, "--cpu {out}")


def run_slice(args: argparse.Namespace) -> int:
    """Write a slice."""
    given = {} if args.context is None else {"context": args.context}
    models.slice_(args.name, args.out, **given)
    return _done(args.out, "{out} --load-format dummy")
