"""Markdown tables from rows and functions of a row, and from cells by line and column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from sglang_hisa.launch.common.text import table

T = TypeVar("T")
L = TypeVar("L")
C = TypeVar("C")


def listed(rows: Iterable[T], *columns: tuple[str, Callable[[T], str]]) -> str:
    """A line for each row: a column is its head and what it says of a row. Empty without rows."""
    lines = [[said(row) for _, said in columns] for row in rows]
    return table([head for head, _ in columns], lines) if lines else ""


def crossed(
    head: Sequence[str],
    lines: Mapping[L, Sequence[str]],
    columns: Mapping[C, str],
    cells: Mapping[tuple[L, C], str],
) -> str:
    """Cells by line and column. Empty without cells.

    ``head``: of the first cells of each line, which ``lines`` has; ``columns`` has the heads of the others.
    """
    made = ([*first, *(cells.get((line, column), "") for column in columns)] for line, first in lines.items())
    return table([*head, *columns.values()], made) if cells else ""
