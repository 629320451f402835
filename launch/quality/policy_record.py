"""Policies of choosing pages against a fixed budget that keeps as many tokens (``recall --policies``).

Levels of adaptive budgets come from prompts of another seed than those that are reported. Each policy is
compared, prompt by prompt, with ``even``: the best pages by the same summary, equally many a row, as many as
the policy kept on average (between two counts, in proportion).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from rich.progress import track

from sglang_hisa.config import PAGE
from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.quality import policies
from sglang_hisa.launch.quality.policies import Scored
from sglang_hisa.launch.quality.rows import layers_at, layers_of, spaced
from sglang_hisa.launch.quality.tasks import Sample
from sglang_hisa.launch.train.model import Model

GROUPS = ("adaptive", "reuse", "two-level", "neighbours")
CAP = 2
"""No row keeps more than this times the budget: buffers are made for the cap."""
SHARES = (0.125, 0.25, 0.5)
"""Of the super-blocks, whose pages are scored."""

Layers = list[Scored]
Kept = list[tuple[torch.Tensor, int]]
"""Of each layer: the choice, and how many coarse vectors a row scored for it."""
Choose = Callable[[Layers], Kept]


def read(model: Model, samples: Iterable[Sample], topk: int, told: str, places: int = 0) -> list[Layers]:
    """What policies need of each prompt and layer; the keys are let go.

    With ``places``: of four adjacent rows at so many places of each prompt instead of the rows that answer.
    """
    if not places:
        return [[Scored.of(parts, topk) for parts in layers_of(model, s)] for s in track(list(samples), told)]
    found = []
    for sample in track(list(samples), told):
        layers = list(layers_at(model, sample, spaced(len(sample.prompt), places), 4))
        found += [[Scored.of(parts, topk) for parts in place] for place in zip(*layers)]
    return found


def adaptive(calibration: list[Layers], count: int, topk: int, joint: bool, rule: str) -> Choose:
    """Rows keep between top-k's tokens and ``CAP`` budgets; a level for each layer, or one for all."""
    floor, cap = topk // PAGE, CAP * (count + 2) - 2
    thresholds = policies.RULES[rule]
    by_layer = [[thresholds(one) for one in layer] for layer in zip(*calibration)]
    if joint:
        both = policies.calibrate([t for layer in by_layer for t in layer], count, floor, cap)
        levels = [both] * len(by_layer)
    else:
        levels = [policies.calibrate(layer, count, floor, cap) for layer in by_layer]

    def choose(layers: Layers) -> Kept:
        kept = [policies.counts(thresholds(one), level, floor, cap) for one, level in zip(layers, levels)]
        return [(policies.keep(one.pages, n), one.pages.shape[1]) for one, n in zip(layers, kept)]

    return choose


def _reuse(how: str, best: int, count: int, pages: int) -> Choose:
    def choose(layers: Layers) -> Kept:
        work = [pages] + [0 if how == "all" else pages] * (len(layers) - 1)
        return list(zip(policies.layers_before(layers, count, how, best), work))

    return choose


def choices(
    groups: Sequence[str], calibration: list[Layers], count: int, topk: int, pages: int
) -> dict[tuple[str, str], Choose]:
    """Every policy by group and name, for a budget that leaves ``count`` pages to choose."""

    def by_layer(one: Callable[[Scored], tuple[torch.Tensor, int]]) -> Choose:
        return lambda layers: [one(layer) for layer in layers]

    made = {("fixed", "fixed (served)"): by_layer(lambda one: (policies.keep(one.pages, count), pages))}
    if "adaptive" in groups:
        for rule in policies.RULES:
            made["adaptive", rule] = adaptive(calibration, count, topk, False, rule)
        for rule in ("spread", "top-p"):
            made["adaptive", f"{rule}, one level"] = adaptive(calibration, count, topk, True, rule)
    if "reuse" in groups:
        made["reuse", f"row before's best {policies.USED}, within"] = by_layer(
            lambda one: (policies.row_before(one, count), pages)
        )
        for how, best in (("within", 8), ("within", policies.USED), ("added", policies.USED)):
            made["reuse", f"layer before's best {best}, {how}"] = _reuse(how, best, count, pages)
        made["reuse", "layer before's pages, no filter"] = _reuse("all", 0, count, pages)
    if "neighbours" in groups:
        for rows, how in itertools.product((2, 4), ("plain sum", "sum", "best", "union")):
            made["neighbours", f"{rows} rows by {how}"] = _together(rows, how, count, pages)
    if "two-level" in groups:
        for (size, kind), share in itertools.product(
            itertools.product(policies.SIZES, policies.SUPERS), SHARES
        ):
            if policies.room(pages, size, share) >= count:
                made["two-level", f"{share:g} of {size} pages' {kind}"] = _two(size, kind, share, count)
    return made


def _together(rows: int, how: str, count: int, pages: int) -> Choose:
    return lambda layers: [(policies.together(one, count, rows, how), pages) for one in layers]


def _two(size: int, kind: str, share: float, count: int) -> Choose:
    def one(layer: Scored) -> tuple[torch.Tensor, int]:
        pages, supers = layer.pages, layer.supers[size, kind]
        work = supers.shape[1] + size * policies.opened(pages.shape[1], size, share)
        return policies.two_levels(pages, supers, size, share, count), work

    return lambda layers: [one(layer) for layer in layers]


def even(one: Scored, count: float) -> torch.Tensor:
    """Stock's tokens and mass that ``count`` pages of each row keep, means over the rows, ``[2]``."""
    low = math.floor(count)
    least, most = (one.judge(policies.keep(one.pages, n))[1:].mean(dim=1) for n in (low, low + 1))
    return least + (count - low) * (most - least)


def half_width(values: list[float]) -> float | None:
    """Half of Student's 95 % interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    return stats.half_width(statistics.stdev(values), len(values), len(values) - 1)


def compared(prompts: list[tuple[Layers, Kept]], topk: int) -> dict[str, Any]:
    """Some layers of all prompts against ``even``. Means are of prompts, each the mean of its rows and
    layers; p95 and most are of rows."""
    judged = [torch.cat([one.judge(k) for one, (k, _) in zip(*p)], dim=1) for p in prompts]
    count = statistics.fmean(_mean([k.sum(dim=1).float().mean() for k, _ in kept]) for _, kept in prompts)
    mean = torch.stack([j.mean(dim=1) for j in judged])
    fair = torch.stack(
        [torch.stack([even(one, count) for one in layers]).mean(dim=0) for layers, _ in prompts]
    )
    gains = (mean[:, 2] - fair[:, 1]).tolist()
    tokens = torch.cat([j[0] for j in judged])
    return {
        "vectors": statistics.fmean(work for _, work in prompts[0][1]),
        "tokens_mean": mean[:, 0].mean().item(),
        "tokens_p95": tokens.quantile(0.95).item(),
        "tokens_most": tokens.max().item(),
        "recall": mean[:, 1].mean().item() / topk,
        "mass": mean[:, 2].mean().item(),
        "even_recall": fair[:, 0].mean().item() / topk,
        "even_mass": fair[:, 1].mean().item(),
        "gain": statistics.fmean(gains),
        "gain_half_width": half_width(gains),
        "prompts": len(prompts),
        "rows": sum(len(layers[0].pages) for layers, _ in prompts),
    }


def _mean(values: list[torch.Tensor]) -> float:
    return torch.stack(values).mean().item()


def measure(
    reported: list[Layers], calibration: list[Layers], groups: Sequence[str], budgets: list[int], topk: int
) -> list[dict[str, Any]]:
    """A row of the record for each policy, budget and layer, and for ``all`` layers together."""
    found = []
    pages = reported[0][0].pages.shape[1]
    for budget in budgets:
        count = min(budget // PAGE - 2, pages)
        for (group, name), choose in choices(groups, calibration, count, topk, pages).items():
            done = [(layers, choose(layers)) for layers in reported]
            for number in [*range(len(reported[0])), "all"]:
                part = slice(None) if number == "all" else slice(number, number + 1)
                row = {"group": group, "policy": name, "budget": budget, "layer": number}
                found.append(row | compared([(layers[part], kept[part]) for layers, kept in done], topk))
    return found
