"""What acceptance, stress and profiling runs start a GPU server with, and what they ask it."""

from __future__ import annotations

import random
from pathlib import Path


def gpu_flags(model: Path, context: int, dummy: bool = True) -> list[str]:
    """SGLang's flags; FlashMLA everywhere, so that stock and HISA differ in the indexer alone.

    ``dummy``: SGLang makes the weights; False where the model has them.
    """
    return [
        *("--model-path", str(model), "--load-format", "dummy" if dummy else "auto"),
        *("--context-length", str(context)),
        *("--dsa-prefill-backend", "flashmla_sparse", "--dsa-decode-backend", "flashmla_sparse"),
        *("--grammar-backend", "none", "--mem-fraction-static", "0.85", "--skip-server-warmup"),
        *("--max-running-requests", "16", "--chunked-prefill-size", "8192", "--enable-metrics"),
    ]


def prompt(length: int, seed: int) -> list[int]:
    """Random token ids of the byte tokenizer."""
    source = random.Random(seed)
    return [source.randrange(3, 259) for _ in range(length)]
