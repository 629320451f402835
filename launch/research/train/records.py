"""The first model: records of letters and digits among random words, bytes as tokens."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from sglang_hisa.launch.common.models import write_tokenizer
from sglang_hisa.launch.research.train import data
from sglang_hisa.launch.research.train.course import Batch, Course
from sglang_hisa.launch.research.train.recipe import COPYING, RECIPE, Stage, mix_for, some_length
from sglang_hisa.launch.research.train.shape import Shape


def batch(stage: Stage, source: random.Random, noise: torch.Generator) -> Batch:
    """Copying, and questions with two answers, are no goal: they lag behind, and must not hold a stage up."""
    length = some_length(stage, source)
    rows = max(1, stage.tokens // length)
    # Copies have so many answers that they would drown the first questions.
    if length >= 256 and source.random() < COPYING:
        return *data.copying(rows, length, noise), None
    mix = mix_for(length, source)
    tokens, marks = data.retrieval(rows, length, mix, noise)
    return tokens, marks, None if mix.doubled else marks


def write(out: Path) -> None:
    """The byte tokenizer."""
    write_tokenizer(out, Shape().vocab, Shape().context)


RECORDS = Course(Shape(), RECIPE, batch, write)
