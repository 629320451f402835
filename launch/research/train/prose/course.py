"""The second model: 64 index heads, facts in sentences among English prose."""

from __future__ import annotations

import random
from dataclasses import replace
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

SHAPE = Shape(hidden=192, layers=3, heads=2, q_rank=64, index_heads=64, vocab=1024, copies=True)
"""7.8 MB in bf16."""

SAID = {64: 0.0, 80: 0.0, 96: 0.5, 128: 0.75}
"""Chance of each part of a fact's wording in the shortest sequences: what belongs to a name is found first
where nothing stands between the two, and then through more and more words. One thing is new in each stage."""
FEW = Mix(density=0.95, bare=True, alphabet=24, pairs=10)
"""Of the first stage. With all words and digits each of them comes so seldom that a model learns which values
there are and stays at guessing among them."""

RECIPE: tuple[Stage, ...] = (
    Stage(DENSE, 64, 32 * K, 7e-4, 20, 0.9),
    Stage(DENSE, 80, 32 * K, 7e-4, 20, 0.9),
    Stage(DENSE, 96, 32 * K, 7e-4, 12, 0.9),
    Stage(DENSE, 128, 32 * K, 7e-4, 10, 0.9),
    Stage(DENSE, 256, 64 * K, 7e-4, 12, 0.95),
    Stage(DENSE, 512, 64 * K, 7e-4, 6, 0.95),
    Stage(DENSE, 1 * K, 64 * K, 7e-4, 5, 0.95),
    Stage(DENSE, 2 * K, 64 * K, 7e-4, 5, 0.95),
    Stage(DENSE, 4 * K, 64 * K, 7e-4, 5, 0.95),
    Stage(DENSE, 8 * K, 64 * K, 7e-4, 5, 0.95),
    Stage(DENSE, 16 * K, 64 * K, 5e-4, 5, 0.95),
    Stage(DENSE, 32 * K, 64 * K, 3e-4, 6, 0.98),
    Stage(INDEX, 1 * K, 32 * K, 2e-3, 8),
    Stage(INDEX, 4 * K, 32 * K, 2e-3, 8),
    Stage(INDEX, 32 * K, 32 * K, 1e-3, 12),
    Stage(SPARSE, 2 * K, 32 * K, 2e-4, 4),
    Stage(SPARSE, 8 * K, 32 * K, 1e-4, 5),
    Stage(SPARSE, 16 * K, 32 * K, 5e-5, 5),
)
"""Goals are of a value's first two digits: the others often follow from the ones before. The first two have
the most time: what they do not find, no later stage does. The last stage is
shorter than the first model's, since with twice the heads a step takes twice as long."""


def mix_for(length: int, source: random.Random) -> Mix:
    """Needles in prose, or facts everywhere; far or near questions. Harder kinds come with room for them."""
    if length == RECIPE[0].length:
        return FEW
    # Few words make every name share one with many others.
    alphabet = source.choice((24, 80)) if length < 4096 else 80
    if length < 256:
        return replace(FEW, alphabet=alphabet, pairs=100)
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
    """Plain questions alone are a goal: others have more than one value in an answer."""
    length = some_length(stage, source)
    mix, words = mix_for(length, source), _vocabulary(noise.device)
    words = words.without(*(part for part in ("of", "is") if source.random() >= SAID.get(length, 1.0)))
    tokens, marks = data.retrieval(words, max(1, stage.tokens // length), length, mix, noise)
    if mix.linked or mix.doubled or mix.paired:
        return tokens, marks, None
    return tokens, marks, marks & torch.isin(tokens, words.first_pairs)


def write(out: Path) -> None:
    """The tokenizer, and ``prose.txt``: the sentences, by which `hisa eval` knows what to ask."""
    tokenizer, prose = language()
    tokenizer.save(str(out / "tokenizer.json"))
    write_tokenizer_config(out, SHAPE.context)
    (out / "prose.txt").write_text("".join(f"{sentence.strip()}\n" for sentence in prose))


PROSE = Course(SHAPE, RECIPE, batch, write)
