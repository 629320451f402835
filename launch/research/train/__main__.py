"""Command: train a small DeepSeek-V3.2 that retrieves, to measure what pruning costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sglang_hisa.launch.common.help import listed, tool
from sglang_hisa.launch.research.train import session
from sglang_hisa.launch.research.train.session import COMMAND, COURSES

_CORPORA = {
    "records": "keys and values among random words, in bytes; 32 index heads, 10 MB in bf16",
    "prose": "facts in sentences, as RULER has them, among the help texts that Python brings along; words "
    "and pieces of words as tokens; 64 index heads, 8 MB",
}

_ABOUT = f"""\
Trains a DeepSeek-V3.2 of 3 layers (real latent, rope and index dimensions, dense MLPs) to retrieve from up to
32K tokens: dense attention first, then the indexer towards that attention, then both sparse, as DSA was
trained. OUT then serves in stock SGLang, and `hisa eval` measures what each preset finds of what stock finds.

corpora:
{listed(_CORPORA, 11)}

examples:
  python -m sglang_hisa.launch.research.train OUT
                                        the whole recipe, 6 H100 minutes
  python -m sglang_hisa.launch.research.train OUT --minutes 3
                                        stop after 3, keep a checkpoint
  python -m sglang_hisa.launch.research.train OUT --resume
                                        and go on
  python -m sglang_hisa.launch.research.train OUT --corpus prose \\
      --recipe-minutes 10 --shape layers=4 hidden=128 heads=2

Writes to OUT, after each stage and at the end: config.json, model.safetensors, tokenizer, train.json (how the
stages went), with prose its sentences, prose.txt (Python's documentation: PSF licence); and train.pt.
"""


SIZES = ("hidden", "layers", "heads", "mlp", "q_rank", "index_heads")


def _size(text: str) -> tuple[str, int]:
    """``layers=3``. Raises ``argparse.ArgumentTypeError``."""
    key, _, value = text.partition("=")
    if key not in SIZES or not value.isdecimal() or not int(value):
        raise argparse.ArgumentTypeError(f"{text!r}: expected KEY=N, KEY one of {', '.join(SIZES)}")
    return key, int(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, export; 1 where the checkpoint or the GPU is missing."""
    parser = tool("research.train", "OUT", _ABOUT)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument("--corpus", choices=COURSES, default="records", help="what it reads")
    parser.add_argument("--recipe-minutes", type=float, default=6, metavar="N", help="time of all stages")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="time of this call (default: all that is left)"
    )
    parser.add_argument(
        "--shape",
        nargs="+",
        type=_size,
        default=[],
        metavar="KEY=N",
        help=f"other sizes than the corpus's model has: {', '.join(SIZES)}",
    )
    parser.add_argument(
        "--step-tokens", type=int, metavar="N", help="at most N tokens a step (default: the recipe's)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT's checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu is for a few stages, of a small shape and few --step-tokens",
    )
    args = parser.parse_args(argv)
    if args.step_tokens is not None and args.step_tokens < 1:
        parser.error("--step-tokens: expected 1 or more")
    if args.device == "cuda" and not torch.cuda.is_available():
        print(f"{COMMAND}: torch sees no CUDA GPU; --device cpu runs a few steps", file=sys.stderr)
        return 1
    course = COURSES[args.corpus]
    most = args.step_tokens or max(stage.tokens for stage in course.recipe)
    recipe = tuple(replace(stage, tokens=min(stage.tokens, most)) for stage in course.recipe)
    try:
        session.train(
            args.out,
            course=replace(course, shape=replace(course.shape, **dict(args.shape)), recipe=recipe),
            recipe_seconds=60 * args.recipe_minutes,
            seconds=float("inf") if args.minutes is None else 60 * args.minutes,
            resume=args.resume,
            seed=args.seed,
            device=args.device,
        )
    except (FileNotFoundError, ValueError) as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
