"""Index queries, weights and keys of a trained model: the rows that predict the answers of `hisa eval`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sglang_hisa.launch.eval.families import Family, of_model
from sglang_hisa.launch.eval.tasks import DEPTHS, Sample
from sglang_hisa.launch.research.scorers import fp8
from sglang_hisa.launch.research.train.model import Model
from sglang_hisa.launch.research.train.shape import Shape

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries fp32 ``[rows, heads, 128]``, weights ``[rows, heads]`` and keys ``[tokens, 128]`` of a layer."""


@dataclass(frozen=True)
class Trained:
    """A model that :mod:`.train` exported: its weights in fp32, its tokenizer, and the questions it knows."""

    model: Model
    tokenizer: Any
    family: Family

    def tokens(self, text: str) -> list[int]:
        """Ids of a text."""
        return list(self.tokenizer.encode(text).ids)

    def unknown(self, asked: list[str]) -> str:
        """Why these tasks cannot be asked; empty if they can."""
        wrong, known = ", ".join(sorted(set(asked) - set(self.family.tasks))), ", ".join(self.family.tasks)
        return f"unknown task {wrong}; allowed: {known}" if wrong else ""

    def prompts(self, asked: list[str], context: int, samples: int, seed: int) -> list[Sample]:
        """``samples`` prompts of each task and depth. Raises ``ValueError`` for a task of other models."""
        make = self.family.make
        return [make(t, context, depth, seed + n) for t in asked for depth in DEPTHS for n in range(samples)]


def load(folder: Path) -> Trained:
    """Of a folder. Raises ``OSError`` where there is no model."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    model = Model(Shape.of(json.loads((folder / "config.json").read_text())))
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    model.eval()
    return Trained(model, Tokenizer.from_file(str(folder / "tokenizer.json")), of_model(folder))


@torch.no_grad()
def projections(trained: Trained, sample: Sample) -> Iterator[Parts]:
    """Of each layer: queries, weights and keys of every token of prompt and answer, not rounded to fp8."""
    model = trained.model
    device = model.lm_head.weight.device
    tokens = torch.tensor([trained.tokens(sample.prompt + sample.answer)], device=device)
    turns, x = model.turns(tokens.shape[1]), model.model.embed_tokens(tokens)
    for layer in model.model.layers:
        attention = layer.self_attn
        normed = layer.input_layernorm(x)
        latent = attention.q_a_layernorm(attention.q_a_proj(normed))
        query, key, weights = attention.indexer(normed, latent, turns)
        yield query[0], weights[0], key[0]
        del query, key, weights
        if layer is not model.model.layers[-1]:
            x = layer(x, turns, None)


def layers_of(trained: Trained, sample: Sample) -> Iterator[Parts]:
    """Of each layer: queries and weights of the rows that predict the answer, and the keys before them."""
    first, rows = sample.context - 1, len(trained.tokens(sample.answer))
    answering = slice(first, first + rows)
    for query, weights, key in projections(trained, sample):
        yield fp8(query[answering]), weights[answering], fp8(key[:first])
