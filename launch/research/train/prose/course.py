"""The second model: 64 index heads, facts in sentences among English prose."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import torch

from sglang_hisa.launch.common.models import write_tokenizer_config
from sglang_hisa.launch.research.train.course import Batch, Course
from sglang_hisa.launch.research.train.prose import data, text
from sglang_hisa.launch.research.train.prose.data import Mix
from sglang_hisa.launch.research.train.prose.tokens import make_tokenizer
from sglang_hisa.launch.research.train.prose.vocabulary import Vocabulary, usable, vocabulary
from sglang_hisa.launch.research.train.recipe import DENSE, INDEX, SPARSE, K, Stage, some_length
from sglang_hisa.launch.research.train.shape import Shape

SHAPE = Shape(layers=2, q_rank=64, index_heads=64, vocab=1024)
"""7.6 MB in bf16. Two layers learn it: one looks for the name, the next for the fact."""

RECIPE: tuple[Stage, ...] = (
    Stage(DENSE, 64, 32 * K, 2e-3, 14, 0.96),
    Stage(DENSE, 128, 32 * K, 2e-3, 14, 0.97),
    Stage(DENSE, 256, 64 * K, 2e-3, 12, 0.97),
    Stage(DENSE, 512, 64 * K, 1.5e-3, 8, 0.97),
    Stage(DENSE, 1 * K, 64 * K, 1e-3, 6, 0.98),
    Stage(DENSE, 2 * K, 64 * K, 1e-3, 6, 0.98),
    Stage(DENSE, 4 * K, 64 * K, 1e-3, 6, 0.98),
    Stage(DENSE, 8 * K, 64 * K, 7e-4, 6, 0.985),
    Stage(DENSE, 16 * K, 64 * K, 5e-4, 6, 0.985),
    Stage(DENSE, 32 * K, 64 * K, 3e-4, 6, 0.99),
    Stage(INDEX, 1 * K, 32 * K, 2e-3, 6),
    Stage(INDEX, 4 * K, 32 * K, 2e-3, 6),
    Stage(INDEX, 32 * K, 32 * K, 1e-3, 8),
    Stage(SPARSE, 2 * K, 32 * K, 2e-4, 4),
    Stage(SPARSE, 8 * K, 32 * K, 1e-4, 5),
    Stage(SPARSE, 16 * K, 32 * K, 5e-5, 5),
)
"""As the first model's, but for the last stage: with twice the heads a step takes twice as long."""


TERSE = 0.5
"""Share of the shortest batches without the wording of facts."""


def mix_for(length: int, source: random.Random) -> Mix:
    """Needles in prose, or facts everywhere; far or near questions. Harder kinds come with room for them."""
    # Few words make every name share one with many others.
    alphabet = source.choice((24, 80)) if length < 4096 else 80
    if length < 256:
        return Mix(density=0.95, questions=0.5, bare=True, alphabet=alphabet)
    density = source.choice((0.05, 0.3, 0.9, 0.95))
    kind = source.choice(("plain", "plain", "linked", "paired", "doubled"))
    return Mix(
        density,
        questions=source.choice((0.1, 0.4)) if length >= 1024 else 0.4,
        linked=0.4 if kind == "linked" else 0.0,
        doubled=0.2 if kind == "doubled" else 0.0,
        paired=0.3 if kind == "paired" else 0.0,
        alphabet=alphabet,
    )


@cache
def language() -> tuple[Any, tuple[str, ...]]:
    """Tokenizer, and the sentences between which facts stand."""
    every = text.sentences()
    tokenizer = make_tokenizer([f" {one}" for one in every], SHAPE.vocab)
    return tokenizer, tuple(usable(tokenizer, every))


@cache
def _vocabulary(device: torch.device) -> Vocabulary:
    return vocabulary(*language(), device)


def batch(stage: Stage, source: random.Random, noise: torch.Generator) -> Batch:
    """Plain questions alone are a goal: in the others most of the answer is wording."""
    length = some_length(stage, source)
    mix = mix_for(length, source)
    words, plain = _vocabulary(noise.device), not (mix.linked or mix.doubled or mix.paired)
    # What belongs to a name is found first where nothing stands between the two.
    if mix.bare and source.random() < TERSE:
        words, plain = words.terse, False
    return *data.retrieval(words, max(1, stage.tokens // length), length, mix, noise), plain


def write(out: Path) -> None:
    """The tokenizer, and ``prose.txt``: the sentences, by which `hisa eval` knows what to ask."""
    tokenizer, prose = language()
    tokenizer.save(str(out / "tokenizer.json"))
    write_tokenizer_config(out, SHAPE.context)
    (out / "prose.txt").write_text("".join(f"{sentence.strip()}\n" for sentence in prose))


PROSE = Course(SHAPE, RECIPE, batch, write)
