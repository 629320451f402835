"""What one model is trained on: its shape, its stages, and where a step's tokens come from."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sglang_hisa.launch.research.train.recipe import Stage
from sglang_hisa.launch.research.train.shape import Shape

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Tokens, answer marks, and those of the answers whose accuracy is the stage's goal, all ``[b, length]``;
None: no goal."""


@dataclass(frozen=True)
class Course:
    """``batch``: of about ``stage.tokens`` tokens, on the generator's device. ``write``: puts the tokenizer,
    and what else questions to the model need, into its folder."""

    shape: Shape
    recipe: tuple[Stage, ...]
    batch: Callable[[Stage, random.Random, torch.Generator], Batch]
    write: Callable[[Path], None]
