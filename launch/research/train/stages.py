"""One optimiser step of each kind of stage."""

from __future__ import annotations

import random

import torch
from torch.nn import functional as F

from sglang_hisa.launch.research.train.course import Course
from sglang_hisa.launch.research.train.model import Model
from sglang_hisa.launch.research.train.recipe import DENSE, INDEX, Stage

INDEX_ROWS = 256
"""Rows of a sequence whose attention the indexer is compared with; half of them answer questions."""


def answer_loss(
    model: Model, tokens: torch.Tensor, marks: torch.Tensor, goal: torch.Tensor | None, topk: int | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cross-entropy over the marked tokens, accuracy over those of ``goal``; 0, not the mean of nothing,
    where there are none."""
    states = model.hidden(tokens, topk)
    wanted = marks[:, 1:]
    logits = model.lm_head(states[:, :-1][wanted]).float()
    truth = tokens[:, 1:][wanted]
    right = logits.argmax(dim=-1) == truth
    loss = F.cross_entropy(logits, truth, reduction="sum") / max(1, truth.numel())
    if goal is None:
        return loss, None
    judged = right[goal[:, 1:][wanted]]
    return loss, judged.float().sum() / max(1, judged.numel())


def index_rows(marks: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """Rows int64 ``[b, r]`` to compare: some that answer, and others anywhere."""
    count = min(INDEX_ROWS, marks.shape[1]) // 2
    chance = torch.rand(marks.shape, generator=noise, device=noise.device)
    answering = F.pad(marks[:, 1:], (0, 1)).float()
    return torch.cat(((answering + chance).topk(count).indices, chance.topk(count).indices), dim=1)


def step(
    model: Model,
    optimiser: torch.optim.Optimizer,
    course: Course,
    stage: Stage,
    source: random.Random,
    noise: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One step; the loss and the accuracy (None: not to be judged by) stay on the device.

    Dense: the model on answers. Index: the indexers alone, towards dense attention. Sparse: both, each
    from its own loss.
    """
    tokens, marks, goal = course.batch(stage, source, noise)
    topk = model.shape.train_topk if stage.kind not in (DENSE, INDEX) else None
    accuracy = None
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.device.type == "cuda"):
        loss = torch.zeros((), device=tokens.device)
        if stage.kind != INDEX:
            loss, accuracy = answer_loss(model, tokens, marks, goal, topk)
        if stage.kind != DENSE:
            loss = loss + model.index_loss(tokens, index_rows(marks, noise), topk)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
    optimiser.step()
    return loss.detach(), accuracy
