"""Accuracy with its interval, and the difference of two arms on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

from sglang_hisa.launch.eval import scores
from sglang_hisa.launch.eval.record import Accuracy, Answer

Z = 1.959964
"""Of a 95 % interval."""


def wilson(right: float, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (E. B. Wilson, JASA 22, 1927). Raises ``ValueError`` for no trial."""
    if total < 1:
        raise ValueError("no interval of nothing")
    share, spread = right / total, Z * Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    # At 0 and 1 the interval ends there, but for rounding.
    return min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p of McNemar's test: were answers lost and won by chance?"""
    trials = lost + won
    tail = sum(math.comb(trials, i) for i in range(min(lost, won) + 1)) / 2**trials
    return float(min(1.0, 2 * tail))


def rows(answers: Sequence[Answer], baseline: str) -> tuple[Accuracy, ...]:
    """Accuracy by arm, task and context; ``lost`` and ``won`` count answers against ``baseline``'s."""
    by_cell: dict[tuple[str, str, int], dict[Hashable, float]] = {}
    scored = any(one.score is not None for one in answers)
    for one in answers:
        by_cell.setdefault((one.arm, one.task, one.context), {})[one.depth, one.sample] = one.value
    bases = {place: by_cell.get((baseline, *place[1:]), {}) for place in by_cell}
    return tuple(_row(place, cell, bases[place], scored) for place, cell in by_cell.items())


def _row(
    place: tuple[str, str, int], mine: Mapping[Hashable, float], base: Mapping[Hashable, float], scored: bool
) -> Accuracy:
    """``None`` bounds the difference of scores where its interval is unknown (see :func:`scores.interval`).

    The score's own interval is then Wilson's, the widest that scores between 0 and 1 can have.
    """
    differences = tuple(value - base[key] for key, value in mine.items() if key in base)
    lost, won = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    total, n = sum(mine.values()), len(mine)
    own = scores.interval(tuple(mine.values())) if scored else None
    low, high = own or wilson(total, n)
    below, above = (scores.interval(differences) if scored else None) or (None, None)
    return Accuracy(
        arm=place[0],
        task=place[1],
        context=place[2],
        accuracy=total / n,
        n=n,
        ci_low=low,
        ci_high=high,
        lost=lost,
        won=won,
        difference=sum(differences) / len(differences) if scored and differences else None,
        difference_low=below,
        difference_high=above,
        p=scores.p_of(differences) if scored else mcnemar(lost, won),
    )


def by_depth(answers: Sequence[Answer], arm: str, task: str) -> dict[tuple[int, float], float]:
    """Accuracy by (context, depth)."""
    cells: dict[tuple[int, float], list[float]] = {}
    for one in answers:
        if (one.arm, one.task) == (arm, task):
            cells.setdefault((one.context, one.depth), []).append(one.value)
    return {place: sum(right) / len(right) for place, right in cells.items()}
