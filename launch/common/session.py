"""The processes of a server's session, and the guard that ends them once its standard input closes.

Only the standard library: the guard (run with the number of the leader) starts at once, with no path.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path


def processes(pid: int) -> list[int]:
    """Processes of the session that ``pid`` leads (its workers live in it)."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:  # bytes: the name of a process may be cut in the middle of a character
            fields = Path("/proc", name, "stat").read_bytes().rsplit(b")", 1)[1].split()
        except OSError:  # it ended since, however the kernel says so
            continue
        if int(fields[3]) == pid and fields[0] != b"Z":
            found.append(int(name))
    return found


def end(leader: int, timeout: float = 20) -> None:
    """SIGKILL every process of a session until none is left."""
    deadline = time.monotonic() + timeout
    while (alive := processes(leader)) and time.monotonic() < deadline:
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):  # it ended between listing and signal
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":  # the guard
    sys.stdin.buffer.read()  # returns when the owner's end of the pipe closes
    end(int(sys.argv[1]))
