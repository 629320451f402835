"""Multi-head latent attention and its lightning indexer, as SGLang computes them (models/deepseek_v2.py,
layers/attention/dsa/dsa_indexer.py), for training: whole sequences from position 0."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sglang_hisa.launch.research.train.shape import Shape

ROWS = 1024
"""Query rows whose ``[rows, keys]`` scores are held at a time."""
HEADS = 8
"""Index heads of which they are."""


def linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """Without bias, normal weights of standard deviation ``gain / sqrt(inputs)``."""
    made = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(made.weight, std=gain * inputs**-0.5)
    return made


class Norm(nn.RMSNorm):
    """In fp32, whatever comes in; the fused kernel wants one type for input and weight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., size]`` -> the same shape and type."""
        return super().forward(x.float()).to(x.dtype)


def angles(length: int, dim: int, theta: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of positions 0 to ``length - 1``, fp32 ``[length, dim / 2]``."""
    frequencies = theta ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
    turns = torch.outer(torch.arange(length, device=device, dtype=torch.float32), frequencies)
    return turns.cos(), turns.sin()


def rope(x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], interleaved: bool) -> torch.Tensor:
    """Rotate x ``[..., length, dim]``: pairs are neighbours, or halves apart (neox)."""
    cos, sin = turns
    wide = x.float()
    first, second = (wide[..., ::2], wide[..., 1::2]) if interleaved else wide.chunk(2, dim=-1)
    parts = (first * cos - second * sin, second * cos + first * sin)
    turned = torch.stack(parts, dim=-1).flatten(-2) if interleaved else torch.cat(parts, dim=-1)
    return turned.to(x.dtype)


class Indexer(nn.Module):
    """``score[t, s] = sum_h weight[t, h] * relu(q[t, h] . k[s])``.

    SGLang's Hadamard transform turns queries and keys alike and leaves their product, so it is left out, as
    is the fp8 rounding.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.dim, self.rope_dim = shape.index_heads, shape.index_dim, shape.rope_dim
        self.wq_b = linear(shape.q_rank, self.heads * self.dim)
        self.wk = linear(shape.hidden, self.dim)
        self.k_norm = nn.LayerNorm(self.dim, eps=1e-6)
        self.weights_proj = linear(shape.hidden, self.heads)

    def forward(
        self, x: torch.Tensor, q_latent: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x ``[b, t, hidden]``, q_latent ``[b, t, q_rank]`` -> queries ``[b, t, heads, dim]``, keys
        ``[b, t, dim]``, weights fp32 ``[b, t, heads]``."""
        query = self.wq_b(q_latent).unflatten(-1, (self.heads, self.dim))
        key = self.k_norm(self.wk(x).float()).to(query.dtype)
        turned = rope(query[..., : self.rope_dim].transpose(1, 2), turns, False).transpose(1, 2)
        query = torch.cat((turned, query[..., self.rope_dim :]), dim=-1)
        key = torch.cat((rope(key[..., : self.rope_dim], turns, False), key[..., self.rope_dim :]), dim=-1)
        return query, key, self.weights_proj(x).float() * (self.heads * self.dim) ** -0.5


def index_scores(query: torch.Tensor, key: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """query ``[b, r, heads, dim]``, key ``[b, t, dim]``, weights ``[b, r, heads]`` -> fp32 ``[b, r, t]``."""
    total = torch.zeros((), device=query.device)
    # Some heads at a time: [b, r, heads, t] does not fit at 32K, and one by one a GPU waits for launches.
    for some, gates in zip(query.split(HEADS, dim=2), weights.split(HEADS, dim=2)):
        dots = torch.relu(torch.einsum("brhd,btd->brht", some, key))
        total = total + (dots.float() * gates[..., None]).sum(dim=2)
    return total


class Attention(nn.Module):
    """Latent attention; dense, or over the ``topk`` tokens that the indexer scores best."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        heads, nope, rope_dim = shape.heads, shape.head_dim, shape.rope_dim
        self.q_a_proj = linear(shape.hidden, shape.q_rank)
        self.q_a_layernorm = Norm(shape.q_rank, eps=shape.eps)
        self.q_b_proj = linear(shape.q_rank, heads * (nope + rope_dim))
        self.kv_a_proj_with_mqa = linear(shape.hidden, shape.kv_rank + rope_dim)
        self.kv_a_layernorm = Norm(shape.kv_rank, eps=shape.eps)
        self.kv_b_proj = linear(shape.kv_rank, heads * 2 * nope)
        self.o_proj = linear(heads * nope, shape.hidden, gain=(2 * shape.layers) ** -0.5)
        self.indexer = Indexer(shape)
        self.scale = (nope + rope_dim) ** -0.5

    def project(
        self, x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """x ``[b, t, hidden]`` -> query and key ``[b, heads, t, 192]``, value ``[b, heads, t, 128]``, and
        the query latent that the indexer reads ``[b, t, q_rank]``."""
        shape, nope = self.shape, self.shape.head_dim
        latent = self.q_a_layernorm(self.q_a_proj(x))
        query = self.q_b_proj(latent).unflatten(-1, (shape.heads, -1)).transpose(1, 2)
        query = torch.cat((query[..., :nope], rope(query[..., nope:], turns, True)), dim=-1)
        stored, key_rope = self.kv_a_proj_with_mqa(x).split((shape.kv_rank, shape.rope_dim), dim=-1)
        key, value = (
            self.kv_b_proj(self.kv_a_layernorm(stored))
            .unflatten(-1, (shape.heads, -1))
            .transpose(1, 2)
            .chunk(2, dim=-1)
        )
        shared = rope(key_rope, turns, True)[:, None].expand(-1, shape.heads, -1, -1)
        return query, torch.cat((key, shared), dim=-1), value, latent

    def forward(
        self, x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], topk: int | None
    ) -> torch.Tensor:
        """x ``[b, t, hidden]`` -> the same shape; ``topk`` None: dense."""
        query, key, value, latent = self.project(x, turns)
        if topk is None or topk >= x.shape[1]:
            padded = F.pad(value, (0, self.shape.rope_dim))  # flash attention wants equal dimensions
            out = F.scaled_dot_product_attention(query, key, padded, is_causal=True, scale=self.scale)
            out = out[..., : self.shape.head_dim]
        else:
            with torch.no_grad():  # a choice has no gradient; the indexer learns from its own loss
                index = self.indexer(x, latent, turns)
            out = self._sparse(query, key, value, index, topk)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _sparse(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        index: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        topk: int,
    ) -> torch.Tensor:
        def rows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=kept, scale=self.scale)

        parts = []
        for start in range(0, query.shape[2], ROWS):
            stop = min(start + ROWS, query.shape[2])
            kept = chosen(index, start, stop, topk)[:, None]
            args = (query[:, :, start:stop], key[:, :, :stop], value[:, :, :stop], kept)
            parts.append(checkpoint(rows, *args, use_reentrant=False))
        return torch.cat(parts, dim=2)

    def row_targets(
        self, x: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor], rows: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the indexer is trained on, for rows int64 ``[b, r]``: index scores with gradient, attention
        summed over heads and normed to 1 without, both fp32 ``[b, r, t]``, and the causal mask."""
        with torch.no_grad():
            query, key, _, latent = self.project(x, turns)
            at = rows[:, None, :, None].expand(-1, self.shape.heads, -1, query.shape[-1])
            dots = (query.gather(2, at) @ key.transpose(2, 3)).float() * self.scale
            future = torch.arange(x.shape[1], device=x.device) > rows[..., None]
            weights = dots.masked_fill(future[:, None], float("-inf")).softmax(dim=-1).mean(dim=1)
        queries, keys, gates = self.indexer(x, latent, turns)
        queries = queries.gather(1, rows[..., None, None].expand(-1, -1, *queries.shape[2:]))
        gates = gates.gather(1, rows[..., None].expand(-1, -1, gates.shape[-1]))
        return index_scores(queries, keys, gates), weights, ~future


@torch.no_grad()
def chosen(
    index: tuple[torch.Tensor, torch.Tensor, torch.Tensor], start: int, stop: int, topk: int
) -> torch.Tensor:
    """Tokens that rows ``start`` to ``stop`` attend to, bool ``[b, rows, stop]``: causal, best ``topk``."""
    queries, keys, weights = index
    scores = index_scores(queries[:, start:stop], keys[:, :stop], weights[:, start:stop])
    row = torch.arange(start, stop, device=scores.device)[:, None]
    causal = torch.arange(stop, device=scores.device) <= row
    scores = scores.masked_fill(~causal, float("-inf"))
    # By index, not by threshold: ReLU makes many scores exactly zero, and zeros would all be kept.
    best = scores.topk(min(topk, stop), dim=-1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True) & causal
