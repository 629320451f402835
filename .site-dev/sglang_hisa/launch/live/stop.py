"""Ctrl-C and SIGTERM while requests are under way."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Stop:
    """Context manager of the main thread: a signal interrupts, but the first one after ``gentle`` only asks.

    Until traffic is served there is nothing to drain, and a second signal means that the user will not wait.
    """

    def __init__(self) -> None:
        self.gentle = False
        self.asked = ""
        """Name of the signal that asked to stop."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, _: FrameType | None) -> None:
        if not self.gentle or self.asked:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
