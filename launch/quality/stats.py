"""Accuracy with its interval, and the difference of two arms on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Z = 1.959964
"""Of a 95 % interval."""


def wilson(right: int, total: int) -> tuple[float, float]:
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
    return min(1.0, 2 * tail)


def rows(answers: Sequence[dict[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """Accuracy by arm, task and context; ``lost`` and ``won`` count answers against ``baseline``'s.

    ``answers``: ``arm``, ``task``, ``context``, ``depth``, ``sample`` (which names the prompt), ``right``.
    """
    by_cell: dict[tuple[str, str, int], dict[tuple[float, int], bool]] = {}
    for one in answers:
        cell = by_cell.setdefault((one["arm"], one["task"], one["context"]), {})
        cell[one["depth"], one["sample"]] = one["right"]
    found = []
    for (arm, task, context), cell in by_cell.items():
        base = by_cell.get((baseline, task, context), {})
        both = cell.keys() & base.keys()
        lost = sum(base[k] and not cell[k] for k in both)
        won = sum(cell[k] and not base[k] for k in both)
        right, n = sum(cell.values()), len(cell)
        low, high = wilson(right, n)
        row = {"arm": arm, "task": task, "context": context, "accuracy": right / n, "n": n}
        row |= {"ci_low": low, "ci_high": high, "lost": lost, "won": won, "p": mcnemar(lost, won)}
        found.append(row)
    return found


def by_depth(answers: Sequence[dict[str, Any]], arm: str, task: str) -> dict[tuple[int, float], float]:
    """Accuracy by (context, depth)."""
    cells: dict[tuple[int, float], list[bool]] = {}
    for one in answers:
        if (one["arm"], one["task"]) == (arm, task):
            cells.setdefault((one["context"], one["depth"]), []).append(one["right"])
    return {place: sum(right) / len(right) for place, right in cells.items()}
