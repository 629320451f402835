"""The trained model: names of its parameters are those of a Hugging Face DeepSeek-V3.2 checkpoint."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from sglang_hisa.launch.research.train.attention import Attention, Norm, angles, linear
from sglang_hisa.launch.research.train.shape import Shape

Turns = tuple[torch.Tensor, torch.Tensor]


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = linear(shape.hidden, shape.mlp)
        self.up_proj = linear(shape.hidden, shape.mlp)
        self.down_proj = linear(shape.mlp, shape.hidden, gain=(2 * shape.layers) ** -0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., hidden]`` -> the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Pre-norm block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, eps=shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden, eps=shape.eps)
        self.mlp = Mlp(shape)

    def forward(self, x: torch.Tensor, turns: Turns, topk: int | None) -> torch.Tensor:
        """``[b, t, hidden]`` -> the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), turns, topk)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, eps=shape.eps)


class Model(nn.Module):
    """A dense-MLP DeepSeek-V3.2."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.lm_head = linear(shape.hidden, shape.vocab)
        if shape.copies:
            with torch.no_grad():  # of standard deviation 0.5
                self.model.embed_tokens.weight.copy_(0.5 * shape.hidden**0.5 * self.lm_head.weight)

    def turns(self, length: int) -> Turns:
        """Rope angles of ``length`` positions."""
        device = self.lm_head.weight.device
        return angles(length, self.shape.rope_dim, self.shape.rope_theta, device)

    def hidden(self, tokens: torch.Tensor, topk: int | None = None) -> torch.Tensor:
        """tokens int64 ``[b, t]`` -> normed states ``[b, t, hidden]``; ``topk`` None: dense attention."""
        turns, x = self.turns(tokens.shape[1]), self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, turns, topk)
        return self.model.norm(x)

    def forward(self, tokens: torch.Tensor, topk: int | None = None) -> torch.Tensor:
        """Logits of every next token, ``[b, t, vocab]``."""
        return self.lm_head(self.hidden(tokens, topk))

    def index_loss(self, tokens: torch.Tensor, rows: torch.Tensor, topk: int | None) -> torch.Tensor:
        """KL divergence of the indexers' softmax from the attention they stand for (DeepSeek-V3.2, §2.1.1).

        The mean over layers and rows int64 ``[b, r]``. Only the indexers get a gradient. With ``topk`` the
        layers' inputs are those of sparse attention, and the divergence is taken over the chosen tokens.
        """
        turns, losses = self.turns(tokens.shape[1]), []
        with torch.no_grad():
            x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            with torch.no_grad():
                normed = layer.input_layernorm(x)
            scores, target, seen = layer.self_attn.row_targets(normed, turns, rows)
            if topk is not None and topk < tokens.shape[1]:
                worst = scores.detach().masked_fill(~seen, float("-inf")).topk(topk, dim=-1).values[..., -1:]
                seen = seen & (scores.detach() >= worst)
                target = target.masked_fill(~seen, 0.0)
                target = target / target.sum(dim=-1, keepdim=True).clamp_min(1e-9)
            logs = scores.masked_fill(~seen, float("-inf")).log_softmax(dim=-1).masked_fill(~seen, 0.0)
            losses.append((target * (target.clamp_min(1e-9).log() - logs)).sum(dim=-1).mean())
            with torch.no_grad():
                x = layer(x, turns, topk)
        return torch.stack(losses).mean()
