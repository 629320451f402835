"""``hisa model train``: a small DeepSeek-V3.2 that retrieves, to measure what pruning costs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_ABOUT = """\
Trains a DeepSeek-V3.2 of 3 layers (real latent, rope and index dimensions, dense MLPs, byte tokenizer, 10 MB
in bf16) on synthetic retrieval up to 32K tokens: dense attention first, then the indexer towards that
attention, then both sparse, as DSA was trained. OUT then serves in stock SGLang, and `hisa eval` measures
what each preset finds of what stock finds.
"""

_EXAMPLES = """\
examples:
  hisa model train retriever                        the whole recipe, 6 minutes of one H100
  hisa model train retriever --minutes 3            stop after 3 minutes, keep a checkpoint
  hisa model train retriever --minutes 3 --resume   and go on

writes to OUT: config.json, model.safetensors, tokenizer, train.json (how the stages went), train.pt.
"""


def add(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the kind to ``hisa model``."""
    parser = kinds.add_parser(
        "train",
        help="a small model that retrieves, trained on one GPU within minutes",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument("--recipe-minutes", type=float, default=6, metavar="N", help="time of all stages (6)")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="time of this call (default: all that is left)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT's checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (0)")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for a few steps only"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, export; 1 where the checkpoint or the GPU is missing."""
    import torch

    from sglang_hisa.launch.train import session

    if args.device == "cuda" and not torch.cuda.is_available():
        print("hisa model train: torch sees no CUDA GPU; --device cpu runs a few steps", file=sys.stderr)
        return 1
    try:
        session.train(
            args.out,
            recipe_seconds=60 * args.recipe_minutes,
            seconds=float("inf") if args.minutes is None else 60 * args.minutes,
            resume=args.resume,
            seed=args.seed,
            device=args.device,
        )
    except (FileNotFoundError, ValueError) as error:
        print(f"hisa model train: {error}", file=sys.stderr)
        return 1
    return 0
