"""Index queries, weights and keys of a trained model: the rows that predict the answers of `hisa eval`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from sglang_hisa.launch.eval.tasks import DEPTHS, Sample, make
from sglang_hisa.launch.research.scorers import fp8
from sglang_hisa.launch.research.train.grammar import token
from sglang_hisa.launch.research.train.model import Model
from sglang_hisa.launch.research.train.shape import Shape

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries fp32 ``[rows, heads, 128]``, weights ``[rows, heads]`` and keys ``[tokens, 128]`` of a layer."""


def prompts(asked: list[str], context: int, samples: int, seed: int) -> list[Sample]:
    """``samples`` prompts of each task and depth."""
    return [make(t, context, depth, seed + n) for t in asked for depth in DEPTHS for n in range(samples)]


def load_model(folder: Path) -> Model:
    """The checkpoint that ``launch.research.train`` exported, in fp32. Raises ``OSError`` without one."""
    from safetensors.torch import load_file

    model = Model(Shape())
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    model.eval()
    return model


@torch.no_grad()
def projections(model: Model, sample: Sample) -> Iterator[Parts]:
    """Of each layer: queries, weights and keys of every token of prompt and answer, not rounded to fp8."""
    text = sample.prompt + sample.answer
    device = model.lm_head.weight.device
    tokens = torch.tensor([[token(char) for char in text]], device=device)
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


def layers_of(model: Model, sample: Sample) -> Iterator[Parts]:
    """Of each layer: queries and weights of the rows that predict the answer, and the keys before them."""
    first, rows = len(sample.prompt) - 1, len(sample.answer)
    answering = slice(first, first + rows)
    for query, weights, key in projections(model, sample):
        yield fp8(query[answering]), weights[answering], fp8(key[:first])
