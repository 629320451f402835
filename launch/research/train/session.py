"""One call of the training: progress on the terminal, checkpoint, export, record."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from sglang_hisa.launch.common.provenance import provenance
from sglang_hisa.launch.research.train.course import Course
from sglang_hisa.launch.research.train.export import export
from sglang_hisa.launch.research.train.prose.course import PROSE
from sglang_hisa.launch.research.train.records import RECORDS
from sglang_hisa.launch.research.train.trainer import Trainer

COMMAND = "python -m sglang_hisa.launch.research.train"
TELL_EVERY = 5.0
"""Seconds between lines of progress."""


class _Teller:
    """Prints a line now and then, and every first line of a stage."""

    def __init__(self) -> None:
        self._last, self._stage = 0.0, ""

    def __call__(self, line: str) -> None:
        stage, now = line.partition(":")[0], time.monotonic()
        if stage != self._stage or now - self._last > TELL_EVERY:
            self._stage, self._last = stage, now
            print(f"{COMMAND}: {line}", file=sys.stderr, flush=True)


COURSES = {"records": RECORDS, "prose": PROSE}


def train(
    out: Path, *, course: Course, recipe_seconds: float, seconds: float, resume: bool, seed: int, device: str
) -> Trainer:
    """Train in ``out`` for at most ``seconds``; what is there is exported after each stage and at the end.

    Raises:
        FileNotFoundError: ``resume`` without a checkpoint.
        ValueError: the checkpoint is of another shape.
    """
    here = provenance()
    # A cuDNN older than PyTorch's own (9.19 under 2.14) fails in the backward pass of its attention.
    torch.backends.cuda.enable_cudnn_sdp(False)

    def keep() -> None:
        export(trainer.model, out)
        course.write(out)
        record = {
            "schema_version": 1,
            "kind": "hisa-train",
            "provenance": here,
            "complete": trainer.done,
            "seed": seed,
            "recipe_seconds": recipe_seconds,
            "stages": trainer.log,
            "standing": asdict(trainer.state),
        }
        (out / "train.json").write_text(json.dumps(record, indent=1) + "\n")

    trainer = Trainer(
        out, course=course, seconds=recipe_seconds, device=device, seed=seed, tell=_Teller(), keep=keep
    )
    if resume:
        trainer.resume()
    done = trainer.run(seconds)
    keep()
    left = "" if done else "; not finished: the same command with --resume goes on"
    print(f"{out}: written{left}")
    return trainer
