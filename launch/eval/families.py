"""Kinds of questions: a trained model is asked in the language that it was trained in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sglang_hisa.launch.eval import prose, tasks
from sglang_hisa.launch.eval.tasks import Sample


@dataclass(frozen=True)
class Family:
    """``make``: the prompt of a task, a context in tokens, a depth and a seed. ``least``: tokens of the
    shortest context; ``room``: no answer has more."""

    name: str
    tasks: tuple[str, ...]
    make: Callable[[str, int, float, int], Sample]
    least: int
    room: int


RECORDS = Family("records", tasks.TASKS, tasks.make, least=128, room=64)


def of_model(model: str | Path) -> Family:
    """What to ask the model of a folder; without a text in it, or of no folder here: records."""
    if (Path(model) / prose.TEXT).is_file():
        return Family("prose", prose.TASKS, prose.Prose(Path(model)).make, least=512, room=320)
    return RECORDS
