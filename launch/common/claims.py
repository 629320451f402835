"""Names that one process of this machine holds at a time."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager


def hold(name: str) -> socket.socket | None:
    """What holds ``name`` until it is closed or this process has ended, however it did; None: it is held.

    The name is an abstract socket's: the kernel drops it with its owner, and no file is left behind.
    """
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind(f"\0sglang-hisa-{name}")
    except OSError:
        held.close()
        return None
    return held


@contextmanager
def held(*words: str) -> Iterator[bool]:
    """Whether what these words name together is this block's alone."""
    name = hold(hashlib.sha256("\0".join(words).encode()).hexdigest())  # a path may be too long for a name
    try:
        yield name is not None
    finally:
        if name is not None:
            name.close()
