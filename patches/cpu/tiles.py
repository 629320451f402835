"""Rows taken a few at a time, so that a prefill chunk of a real top-k fits the memory of a laptop.

The kernels that the stand-ins replace read keys where they lie; PyTorch gathers a copy for each row, and all
of a chunk's at once are gigabytes (2048 rows with 2048 keys of 576 fp32: 9.7 GB).
"""

from __future__ import annotations

from collections.abc import Iterator

BYTES = 64 << 20
"""Of the largest temporary tensor of one tile."""


def tiles(rows: int, row_bytes: int) -> Iterator[slice]:
    """``rows`` in parts whose temporaries, ``row_bytes`` each row, take at most ``BYTES`` (or of one row)."""
    size = max(1, BYTES // max(row_bytes, 1))
    return (slice(begin, min(begin + size, rows)) for begin in range(0, rows, size))
