"""What is trained in which order: dense attention, then the indexer, then both with sparse attention."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sglang_hisa.launch.research.train.data import Mix

DENSE, INDEX, SPARSE = "dense", "index", "sparse"
K = 1024
COPYING = 0.05
"""Share of batches that copy a text."""
SHORTER = 0.2
"""Share of batches of a shorter length, so that it is not forgotten."""


@dataclass(frozen=True)
class Stage:
    """``weight``: its part of the time that is left, against the weights of the later stages.

    ``goal``: accuracy (dense, sparse) that ends it early; None uses up its time.
    """

    kind: str
    length: int
    tokens: int
    lr: float
    weight: float
    goal: float | None = None


RECIPE: tuple[Stage, ...] = (
    # Retrieval is learned on the shortest sequences; each longer one then starts from a model that has it.
    Stage(DENSE, 64, 32 * K, 2e-3, 14, 0.96),
    Stage(DENSE, 128, 32 * K, 2e-3, 14, 0.97),
    Stage(DENSE, 256, 64 * K, 2e-3, 10, 0.97),
    Stage(DENSE, 512, 64 * K, 1.5e-3, 8, 0.97),
    Stage(DENSE, 1 * K, 64 * K, 1e-3, 6, 0.98),
    Stage(DENSE, 2 * K, 64 * K, 1e-3, 6, 0.98),
    Stage(DENSE, 4 * K, 64 * K, 1e-3, 6, 0.98),
    Stage(DENSE, 8 * K, 64 * K, 7e-4, 6, 0.985),
    Stage(DENSE, 16 * K, 64 * K, 5e-4, 6, 0.985),
    Stage(DENSE, 32 * K, 64 * K, 3e-4, 8, 0.995),
    Stage(INDEX, 1 * K, 32 * K, 2e-3, 6),
    Stage(INDEX, 4 * K, 32 * K, 2e-3, 6),
    Stage(INDEX, 32 * K, 32 * K, 1e-3, 8),
    Stage(SPARSE, 2 * K, 32 * K, 2e-4, 4),
    Stage(SPARSE, 8 * K, 32 * K, 1e-4, 5),
    Stage(SPARSE, 32 * K, 32 * K, 5e-5, 5),
)
"""The time that a stage saves is shared by all later ones."""


def some_length(stage: Stage, source: random.Random) -> int:
    """The stage's length, or now and then a shorter one."""
    length = stage.length
    if length > 256 and source.random() < SHORTER:
        length = source.choice([n for n in (256, 512, 1024, 2048, 4096, 8192, 16384) if n < length])
    return length


def mix_for(length: int, source: random.Random) -> Mix:
    """A kind of haystack: sparse needles in words, or records everywhere; far or near questions.

    Links and second records come once plain retrieval is there.
    """
    if length < 256:
        return Mix(density=0.9, questions=0.5)
    density = source.choice((0.02, 0.2, 0.9, 0.95))
    linked = source.choice((0.0, 0.0, 0.4))
    doubled = source.choice((0.0, 0.0, 0.0, 0.1)) if not linked else 0.0
    share = source.choice((0.1, 0.4)) if length >= 1024 else 0.4
    # A small alphabet makes every key differ from many others by one letter.
    alphabet = source.choice((10, 26)) if length < 4096 else 26
    return Mix(density, share, linked, doubled, alphabet)


def share(recipe: tuple[Stage, ...], number: int, left: float) -> float:
    """Most seconds of stage ``number`` when ``left`` seconds are left for it and all later stages."""
    return left * recipe[number].weight / sum(stage.weight for stage in recipe[number:])
