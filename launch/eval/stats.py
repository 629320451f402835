"""Accuracy with its interval, and the difference of two arms on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from sglang_hisa.launch.eval import scores

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


def rows(answers: Sequence[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Accuracy by arm, task and context; ``lost`` and ``won`` count answers against ``baseline``'s.

    ``answers``: ``arm``, ``task``, ``context``, ``depth``, ``sample`` (which names the prompt), and ``right``
    or a ``score`` between 0 and 1; of scores the accuracy is the mean, and a row has their difference.
    """
    by_cell: dict[tuple[str, str, int], dict[Hashable, Any]] = {}
    scored = any("score" in one for one in answers)
    for one in answers:
        cell = by_cell.setdefault((one["arm"], one["task"], one["context"]), {})
        cell[one["depth"], one["sample"]] = one["score" if scored else "right"]
    found = []
    for (arm, task, context), cell in by_cell.items():
        base = by_cell.get((baseline, task, context), {})
        values = (_compare_scores if scored else _compare)(cell, base)
        found.append({"arm": arm, "task": task, "context": context, **values})
    return found


def _compare(mine: Mapping[Hashable, bool], base: Mapping[Hashable, bool]) -> dict[str, Any]:
    both = mine.keys() & base.keys()
    lost = sum(base[k] and not mine[k] for k in both)
    won = sum(mine[k] and not base[k] for k in both)
    right, n = sum(mine.values()), len(mine)
    low, high = wilson(right, n)
    values = {"accuracy": right / n, "n": n, "ci_low": low, "ci_high": high}
    return {**values, "lost": lost, "won": won, "p": mcnemar(lost, won)}


def _compare_scores(mine: Mapping[Hashable, float], base: Mapping[Hashable, float]) -> dict[str, Any]:
    """Means; ``None`` bounds the difference where its interval is unknown (see :func:`scores.interval`).

    The score's own interval is then Wilson's, the widest that scores between 0 and 1 can have.
    """
    differences = tuple(value - base[key] for key, value in mine.items() if key in base)
    total, n = sum(mine.values()), len(mine)
    low, high = scores.interval(tuple(mine.values())) or wilson(total, n)
    below, above = scores.interval(differences) or (None, None)
    return {
        **{"accuracy": total / n, "n": n, "ci_low": low, "ci_high": high},
        **{"lost": sum(d < 0 for d in differences), "won": sum(d > 0 for d in differences)},
        "difference": sum(differences) / len(differences) if differences else None,
        **{"difference_low": below, "difference_high": above, "p": scores.p_of(differences)},
    }


def by_depth(answers: Sequence[dict[str, Any]], arm: str, task: str) -> dict[tuple[int, float], float]:
    """Accuracy by (context, depth)."""
    cells: dict[tuple[int, float], list[bool]] = {}
    for one in answers:
        if (one["arm"], one["task"]) == (arm, task):
            cells.setdefault((one["context"], one["depth"]), []).append(one["right"])
    return {place: sum(right) / len(right) for place, right in cells.items()}
