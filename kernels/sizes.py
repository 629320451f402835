"""Sizes of launches. Triton's own functions serve kernels, too: on the host a call takes 10 us (3.9)."""

from __future__ import annotations


def cdiv(count: int, size: int) -> int:
    """How many of ``size`` hold ``count``."""
    return -(-count // size)


def power_of_2(count: int) -> int:
    """The least power of two that is at least ``count``, which is at least 1."""
    return 1 << (count - 1).bit_length()
