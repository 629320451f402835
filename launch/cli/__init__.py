"""The ``hisa`` command."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from sglang_hisa import __version__
from sglang_hisa.launch.cli import ab, bench, demo, doctor, load, model, presets, serve, status
from sglang_hisa.launch.cli import eval as evaluate
from sglang_hisa.launch.common.help import Help

_ABOUT = """\
HISA: a two-stage indexer for DeepSeek-Sparse-Attention models (DeepSeek-V3.2, GLM-5) in SGLang.

In every layer, the stock DSA indexer scores all cached tokens of a request to choose index_topk (2048) of
them. HISA first scores one mean-pooled summary per 64-token page, keeps the best pages, and runs the same
indexer on those pages alone. The sparse attention that follows does not change, and a row (query token)
whose context fits its budget gets exactly stock DSA's choice.
"""

_EXAMPLES = """\
examples:
  hisa doctor                              is this machine ready?
  hisa doctor MODEL --tp 8                 what would this model do?
  hisa demo                                stock, then HISA; needs no GPU
  hisa serve MODEL --tp 8                  the server, with the default preset
  hisa serve --stock MODEL --tp 8          the same server without HISA
  hisa serve --preset paper --set prefill_tokens=16384 MODEL --tp 8
  hisa status http://127.0.0.1:30000       what does a running server do?
  hisa ab MODEL --tp 8                     is HISA faster than stock?
  hisa ab --live --share 0.1 MODEL --tp 4  send a tenth of your traffic to HISA
  hisa load http://127.0.0.1:30000 --slo ttft=2
                                           how much load can it take?
  hisa eval launch/research/retriever      how many answers does pruning cost?

MODEL is a folder or a Hugging Face name, such as deepseek-ai/DeepSeek-V3.2.

`hisa serve` sets an environment variable and then becomes SGLang's own
launcher. Without SGLANG_HISA, SGLang is stock. The same by hand:

  SGLANG_HISA=balanced python -m sglang.launch_server --model-path MODEL --tp 8
"""

COMMANDS = (doctor, serve, status, ab, load, evaluate, presets, demo, model, bench)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; each sets ``run``, a function from its arguments to an exit code."""
    parser = argparse.ArgumentParser(
        prog="hisa",
        description=f"{_ABOUT}\n{presets.as_text()}",
        epilog=_EXAMPLES,
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sglang-hisa {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``hisa``; returns the exit code (1: a problem that was reported, 2: wrong usage, 130: interrupted).

    SIGTERM (of ``timeout``, of a batch system) interrupts as Ctrl-C does: what was measured is kept.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    args, rest = parser.parse_known_args(words or ["--help"])
    if rest and not getattr(args, "passes_flags_on", False):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    args.words, args.rest = words, rest
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(args.run(args))
    finally:
        signal.signal(signal.SIGTERM, previous)
