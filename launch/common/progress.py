"""How long work says what it is doing."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[str], None]
"""Takes one line of progress."""
