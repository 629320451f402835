"""Ways to choose pages that spend a budget unlike "the best pages by summary, equally many a row" (offline).

Pages are kept as bool ``[rows, pages]``, the first one always; what follows the pages is always kept and not
among them. Counts are of pages; scores are fp32 ``[rows, pages]``, larger is better.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sglang_hisa.config import PAGE
from sglang_hisa.launch.quality.rows import Parts
from sglang_hisa.launch.quality.scorers import fp8, mean, salient, token_scores

SIZES = (8, 16)
"""Pages that share a super-block."""
SUPERS = {"mean": mean, "salient mean": salient}
"""A super-block is summarised from its pages' fp8 means as a page is from its keys."""
USED = 32
"""Best tokens of the row before (or the layer before) whose pages are used again."""


@dataclass(frozen=True)
class Scored:
    """A layer of a prompt: what a policy may see (of ``tokens``, the kept ones), and what it is judged by."""

    tokens: torch.Tensor
    """Index scores ``[rows, tokens]``."""
    pages: torch.Tensor
    """Scores of the pages' means."""
    supers: dict[tuple[int, str], torch.Tensor]
    """Scores ``[rows, super-blocks]`` by pages in a super-block and summary; the last one may be short."""
    hits: torch.Tensor
    """Stock's tokens in each page."""
    mass: torch.Tensor
    """Their share of the softmax over all of stock's tokens."""
    tail: torch.Tensor
    """Tokens, stock's tokens and share of mass after the pages, ``[3, rows]``."""

    @classmethod
    def of(cls, parts: Parts, topk: int) -> Scored:
        """Pages as :func:`.recall.kept_tokens` cuts them: 64 to 127 tokens stay behind the last one."""
        query, weights, key = parts
        scores = token_scores(query, weights, key)
        stock = torch.zeros_like(scores, dtype=torch.bool)
        stock.scatter_(1, scores.topk(topk, dim=1).indices, True)
        mass = scores.softmax(dim=1) * stock
        mass /= mass.sum(dim=1, keepdim=True)
        count = key.shape[0] // PAGE - 1
        end = count * PAGE
        keys = key[:end].unflatten(0, (count, PAGE))
        means = fp8(keys.mean(dim=1))
        supers = {
            # A page alone is its own mean and has no distance from it.
            (size, name): torch.cat(
                [(summary if len(m) > 1 else mean)(m[None], query, weights) for m in means.split(size)], dim=1
            )
            for size in SIZES
            for name, summary in SUPERS.items()
        }
        rest = torch.full((len(scores),), float(key.shape[0] - end))
        return cls(
            tokens=scores,
            pages=mean(keys, query, weights),
            supers=supers,
            hits=stock[:, :end].unflatten(1, (count, PAGE)).sum(dim=2),
            mass=mass[:, :end].unflatten(1, (count, PAGE)).sum(dim=2),
            tail=torch.stack((rest, stock[:, end:].sum(dim=1), mass[:, end:].sum(dim=1))),
        )

    def judge(self, kept: torch.Tensor) -> torch.Tensor:
        """Tokens kept, stock's tokens kept and share of mass kept, ``[3, rows]``."""
        return self.tail + torch.stack([(x * kept).sum(dim=1) for x in (PAGE, self.hits, self.mass)])


def order(score: torch.Tensor) -> torch.Tensor:
    """Pages from best to worst, the first page ahead of all."""
    return score.index_fill(1, torch.tensor([0]), float("inf")).argsort(dim=1, descending=True)


def keep(score: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """The first page and the best, ``count`` (of each row, ``[rows, 1]``) in all."""
    return order(score).argsort(dim=1) < count


# Budgets by row. A rule gives each page a threshold: the page is kept at that level and above.


def margin(one: Scored) -> torch.Tensor:
    """How far the page's score is below the row's best."""
    return one.pages.amax(dim=1, keepdim=True) - one.pages


def spread(one: Scored) -> torch.Tensor:
    """The same in standard deviations of the row's page scores, from their mean."""
    middle = one.pages.mean(dim=1, keepdim=True)
    return (middle - one.pages) / one.pages.std(dim=1, keepdim=True)


def top_p(one: Scored) -> torch.Tensor:
    """Softmax share of the pages that score better."""
    best = one.pages.argsort(dim=1, descending=True)
    share = one.pages.softmax(dim=1).gather(1, best)
    return torch.zeros_like(share).scatter_(1, best, share.cumsum(dim=1) - share)


def known(one: Scored) -> torch.Tensor:
    """Not a rule: the budgets that keep most mass in all, had the mass behind each count been known.

    Slopes of the least concave function above the mass that the best 1, 2, 3... pages keep, negated.
    """
    best = order(one.pages)
    total = torch.nn.functional.pad(one.mass.gather(1, best).cumsum(dim=1), (1, 0))
    at = torch.arange(total.shape[1])
    slopes = []
    for row in total:
        rise = (row[None, :] - row[:, None]) / (at[None, :] - at[:, None]).clamp_min(1)
        rise = rise.masked_fill(at[None, :] <= at[:, None], float("-inf"))
        highest = rise.flip(1).cummax(dim=1).values.flip(1)  # [i, k]: best slope from i to k or beyond
        slopes.append(highest.masked_fill(at[:, None] >= at[None, :], float("inf")).amin(dim=0)[1:])
    return torch.zeros_like(one.mass).scatter_(1, best, -torch.stack(slopes))


RULES: dict[str, Callable[[Scored], torch.Tensor]] = {
    "margin": margin,
    "spread": spread,
    "top-p": top_p,
    "mass known (bound)": known,
}


def counts(thresholds: torch.Tensor, level: float, floor: int, cap: int) -> torch.Tensor:
    """Pages that each row keeps, ``[rows, 1]``."""
    return (thresholds <= level).sum(dim=1, keepdim=True).clamp(floor, cap)


def calibrate(thresholds: Sequence[torch.Tensor], want: float, floor: int, cap: int) -> float:
    """The lowest level that keeps ``want`` pages or more, in the mean over prompts of their rows' mean."""
    low = min(t.min().item() for t in thresholds)
    high = max(t.max().item() for t in thresholds)
    for _ in range(50):
        level = (low + high) / 2
        means = [counts(t, level, floor, cap).float().mean() for t in thresholds]
        low, high = (level, high) if torch.stack(means).mean() < want else (low, level)
    return high


# Another choice used again.


def best_used(one: Scored, kept: torch.Tensor, used: int = USED) -> torch.Tensor:
    """Pages of the ``used`` best tokens that a choice left to the top-k."""
    seen = torch.nn.functional.pad(kept.repeat_interleave(PAGE, dim=1), (0, int(one.tail[0, 0])), value=True)
    best = one.tokens.masked_fill(~seen, float("-inf")).topk(used, dim=1).indices // PAGE
    found = torch.zeros(len(kept), one.tokens.shape[1] // PAGE + 1, dtype=torch.bool)
    return found.scatter_(1, best, True)[:, : kept.shape[1]]


def prefer(score: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Scores with the wanted pages above all others, in their own order."""
    return torch.where(wanted, score + 2 * (score.amax() - score.amin() + 1), score)


def row_before(one: Scored, count: int) -> torch.Tensor:
    """The pages that the row before used come first; each row's choice follows from the one before."""
    kept = keep(one.pages, count)
    for row in range(1, len(kept)):
        wanted = best_used(one, kept)[row - 1 : row]
        kept[row] = keep(prefer(one.pages[row : row + 1], wanted), count)
    return kept


def layers_before(layers: Sequence[Scored], count: int, how: str, best: int = USED) -> list[torch.Tensor]:
    """Each layer's choice from the one before: pages of its ``best`` tokens ``within`` the budget, or
    ``added`` to it, or ``all`` its pages and no filter. The first layer chooses for itself."""
    chosen = [keep(layers[0].pages, count)]
    for before, one in itertools.pairwise(layers):
        used = best_used(before, chosen[-1], best)
        if how == "all":
            chosen.append(chosen[-1])
        elif how == "added":
            chosen.append(keep(one.pages, count) | used)
        else:
            chosen.append(keep(prefer(one.pages, used), count))
    return chosen


# Neighbours: adjacent rows of a prefill that share their pages, so that a kernel loads them once.


def together(one: Scored, count: int, rows: int, how: str) -> torch.Tensor:
    """Groups of ``rows`` adjacent rows keep the same ``count`` pages: the best by the ``plain sum`` of their
    scores (served: ``prefill_group``), by the ``sum`` or the ``best`` of them, each row's from its mean in
    standard deviations, or the ``union`` of as many of each row's best as make ``count``."""
    scores = one.pages
    if how != "plain sum":
        scores = (scores - scores.mean(dim=1, keepdim=True)) / scores.std(dim=1, keepdim=True)
    chosen = []
    for group in scores.split(rows):
        if how == "union":
            ranks = order(group).argsort(dim=1).amin(dim=0, keepdim=True).float()  # its best rank in any row
            score = group.amax(dim=0, keepdim=True).sigmoid() - ranks  # of equal ranks the better score
        else:
            score = (group.amax(dim=0) if how == "best" else group.sum(dim=0))[None]
        chosen.append(keep(score, count).expand(len(group), -1))
    return torch.cat(chosen)


# Two levels.


def opened(pages: int, size: int, share: float) -> int:
    """Super-blocks that a row opens, at least one."""
    return max(1, round(share * -(-pages // size)))


def room(pages: int, size: int, share: float) -> int:
    """Pages that they hold at least: the last super-block may be short."""
    return opened(pages, size, share) * size - -pages % size


def two_levels(
    pages: torch.Tensor, supers: torch.Tensor, size: int, share: float, count: int
) -> torch.Tensor:
    """The best pages of the best ``share`` of super-blocks of ``size`` pages.

    Raises:
        ValueError: these may hold fewer pages than are to be kept.
    """
    all_pages = pages.shape[1]
    if room(all_pages, size, share) < count:
        raise ValueError(f"{share:g} of the super-blocks of {size} pages do not hold {count} pages")
    seen = keep(supers, opened(all_pages, size, share)).repeat_interleave(size, dim=1)[:, :all_pages]
    return keep(pages.masked_fill(~seen, float("-inf")), count)
