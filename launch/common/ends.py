"""How a server ended, in words: a signal from outside is told as one, not by what its log last says."""

from __future__ import annotations

import re
import signal
import time
from typing import Protocol


class Server(Protocol):
    """What a server says of its end."""

    def exit_code(self) -> int | None:
        """Exit code if it has ended."""

    def tail(self) -> str:
        """The end of its log."""


_CHILD = re.compile(r"(?:exit code:?|terminated with) (-\d+)")
"""SGLang's words for a scheduler that a signal ended; it then ends itself, with a code that says nothing."""
_KILLER = "; `dmesg` says whether that was the kernel's out-of-memory killer"


def killed(code: int, log_tail: str = "") -> str | None:
    """``was killed from outside by SIGKILL``, of a server or of one of its workers; None: it ended itself."""
    told = _CHILD.findall(log_tail)
    number = -int(told[-1]) if told else -code
    if number <= 0:
        return None
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    who = "a worker of it was" if told else "was"
    return f"{who} killed from outside by {name}{_KILLER * (number == signal.SIGKILL)}"


def how(code: int, log_tail: str = "") -> str:
    """``exited with code 3``, or see :func:`killed`."""
    return killed(code, log_tail) or f"exited with code {code}"


def exit_code(server: Server, patience: float = 2) -> int | None:
    """Exit code, once it is known: a dying server closes its connections before it has one."""
    deadline = time.monotonic() + patience
    while (code := server.exit_code()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return code


def explain(server: Server, who: str, error: Exception) -> tuple[str, dict[str, str | None]]:
    """``error`` of a server, with how it ended if it has, and what a record keeps of it: ``log_tail`` and
    ``killed``."""
    code, tail = exit_code(server), server.tail()
    end = "" if code is None else f"the server {how(code, tail)}"
    ended = f"{end}; " if end and end not in str(error) else ""
    facts = {"log_tail": tail, "killed": None if code is None else killed(code, tail)}
    return f"{who}: {ended}{error}", facts
