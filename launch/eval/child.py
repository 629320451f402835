"""A suite that another program asks and grades: what it is asked for, the program, and its log."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sglang_hisa.launch.common.progress import ProgressCallback


class SuiteFailed(OSError):
    """The program ended without all answers; the message holds the end of its log."""


@dataclass(frozen=True)
class Job:
    """All questions of all tasks and lengths to the server of one arm, ``samples`` of each."""

    url: str
    arm: str
    contexts: tuple[int, ...]
    tasks: tuple[str, ...]
    samples: int
    at_once: int
    env: Mapping[str, str]
    folder: Path
    tell: ProgressCallback

    def place(self, program: str, prefix: str = "") -> Path:
        """A new folder for what ``program`` writes."""
        made = self.folder / program / self.arm.replace("/", "_") / f"{prefix}{time.time_ns()}"
        made.mkdir(parents=True)
        return made


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
