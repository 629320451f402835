"""``hisa model``: make model folders to try HISA on without downloading weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from sglang_hisa.launch.common import models
from sglang_hisa.launch.common.help import Help, listed


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "model",
        help="write a tiny random model (CPU) or a slice of a real one (GPU)",
        description="Writes a model folder to try HISA on; no weights are downloaded.",
        epilog="example:\n  hisa model tiny OUT                   then: hisa serve --cpu OUT",
        formatter_class=Help,
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", required=True)
    tiny = kinds.add_parser(
        "tiny",
        help="3 random DeepSeek-V3.2 layers and a byte tokenizer, for a CPU",
        description="Writes a random DeepSeek-V3.2 of 3 layers with a byte tokenizer: 6 MB, serves on a CPU.",
        epilog="example:\n  hisa model tiny OUT                   then: hisa serve --cpu OUT",
        formatter_class=Help,
    )
    tiny.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    tiny.add_argument("--draft", action="store_true", help="with a draft layer, for speculative decoding")
    tiny.set_defaults(run=run_tiny)
    part = kinds.add_parser(
        "slice",
        help="a part of DeepSeek-V3.2 or GLM-5, for --load-format dummy",
        description="Writes the configuration and a tokenizer of a part of DeepSeek-V3.2 or GLM-5, or of "
        "all of DeepSeek-V3.2; the server makes up the weights (--load-format dummy).",
        epilog="names:\n"
        + listed({name: text for name, (text, _) in models.SLICES.items()}, 17)
        + "\n\nexample:\n  hisa model slice v32-4l OUT",
        formatter_class=Help,
    )
    part.add_argument("name", metavar="NAME", choices=list(models.SLICES), help="one of the names below")
    part.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    part.add_argument("--context", type=int, metavar="N", help="longest context, in tokens")
    part.add_argument("--layers", type=int, metavar="N", help="only its first N layers")
    part.set_defaults(run=run_slice, usage_error=part.error)


def run_tiny(args: argparse.Namespace) -> int:
    """Write the tiny model."""
    out = models.make_tiny(args.out, draft=args.draft)
    print(f"{out}: written; serve it with: hisa serve --cpu {out}")
    return 0


def run_slice(args: argparse.Namespace) -> int:
    """Write a slice."""
    try:
        out = models.make_slice(args.name, args.out, args.context, args.layers)
    except ValueError as error:
        args.usage_error(str(error))
    print(f"{out}: written; serve it with: hisa serve {out} --load-format dummy")
    return 0
