"""A suite that another program asks and grades: the program and its log."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class SuiteFailed(OSError):
    """The program ended without all answers; the message holds the end of its log."""


def run(
    name: str, words: Sequence[str], log: Path, env: Mapping[str, str], every_10_s: Callable[[], None]
) -> None:
    """Run the program ``name`` to its end; everything it prints is in ``log``.

    Raises:
        SuiteFailed: its exit code is not 0.
    """
    with log.open("wb") as file:
        child = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=dict(env))
    try:
        while child.poll() is None:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                every_10_s()
    finally:
        child.kill()
        child.wait()
    if child.returncode:
        raise SuiteFailed(f"{name} ended with code {child.returncode}\n{tail(log)}")


def tail(log: Path, lines: int = 15) -> str:
    """The end of the log; a progress bar, which starts its line again and again, counts as one line."""
    text = log.read_bytes().decode(errors="replace").rstrip()
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")[-lines:])
