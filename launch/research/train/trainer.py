"""The training loop: stages by time and goal, checkpoints that another call goes on from."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sglang_hisa.launch.research.train.course import Course
from sglang_hisa.launch.research.train.model import Model
from sglang_hisa.launch.research.train.recipe import DENSE, INDEX, Stage, share
from sglang_hisa.launch.research.train.stages import step

CHECKPOINT = "train.pt"
WARMUP = 50
"""First steps of a stage, over which its learning rate rises."""
LOOK = 10
"""Steps between two looks at the loss: each look waits for the device."""
PATIENCE = 2.0
"""Seconds after which slow steps are looked at earlier."""
SAVE_EVERY = 60.0
"""Seconds between checkpoints."""


@dataclass
class State:
    """Where the training stands; with the weights, all that a checkpoint holds."""

    left: float
    """Seconds for this stage and all later ones, when it began."""
    stage: int = 0
    steps: int = 0
    seconds: float = 0.0
    """In this stage; ``steps`` too."""
    accuracy: float = 0.0
    """Moving mean over the stage."""


class Trainer:
    """Trains the model of a course for ``seconds`` in all, over as many calls of :meth:`run` as it takes.

    Args:
        folder: takes the checkpoint.
        device: ``cuda`` or ``cpu``.
        seed: of weights and data. Equal seeds give equal runs only where every step is as fast.
        tell: called with one line of progress.
        keep: called at the end of each stage, so that a run that is cut off has left a model.
    """

    def __init__(
        self,
        folder: Path,
        *,
        course: Course,
        seconds: float,
        device: str,
        seed: int = 0,
        tell: Callable[[str], None] = print,
        keep: Callable[[], None] = lambda: None,
    ) -> None:
        torch.manual_seed(seed)
        self.folder, self.course, self.recipe = folder, course, course.recipe
        self.tell, self.keep = tell, keep
        self.model = Model(course.shape).to(device)
        self.state = State(left=seconds)
        self.log: list[dict[str, Any]] = []
        self.source = random.Random(seed)
        self.noise = torch.Generator(device).manual_seed(seed)
        self.optimiser = self._optimiser()

    @property
    def done(self) -> bool:
        """Every stage has ended."""
        return self.state.stage >= len(self.recipe)

    def _optimiser(self) -> torch.optim.Optimizer:
        """AdamW over what the stage trains; the indexers have moments of their own from their stage on."""
        kind = self.recipe[min(self.state.stage, len(self.recipe) - 1)].kind
        named = list(self.model.named_parameters())
        wanted = [
            p for name, p in named if kind not in (DENSE, INDEX) or (".indexer." in name) == (kind == INDEX)
        ]
        for _, parameter in named:
            parameter.requires_grad_(False)
        for parameter in wanted:
            parameter.requires_grad_(True)
        return torch.optim.AdamW(wanted, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def run(self, seconds: float) -> bool:
        """Train until all stages are done (True) or ``seconds`` are over."""
        end, saved = time.monotonic() + seconds, time.monotonic()
        to_the_end = seconds >= self.state.left - self.state.seconds
        while not self.done and time.monotonic() < end:
            self._steps()
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        # A call with time for all has ended the recipe, though saving took some of the last stage's time.
        if to_the_end and self.state.stage == len(self.recipe) - 1:
            self._next(self.recipe[-1])
        self.save()
        return self.done

    def _steps(self) -> None:
        stage, state, begin = self.recipe[self.state.stage], self.state, time.monotonic()
        limit = share(self.recipe, state.stage, state.left)
        seen: list[torch.Tensor] = []
        for _ in range(LOOK):
            late = min(1.0, 2.2 - 2 * state.seconds / limit) if stage.goal is None else 1.0
            rate = stage.lr * min(1.0, (state.steps + 1) / WARMUP) * max(0.1, late)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            loss, accuracy = step(self.model, self.optimiser, self.course, stage, self.source, self.noise)
            state.steps += 1
            if accuracy is not None:
                seen.append(accuracy)
            if time.monotonic() - begin > PATIENCE:
                break
        value = float(loss)  # waits for the device
        if seen:
            state.accuracy += (float(torch.stack(seen).mean()) - state.accuracy) * (
                0.5 if state.accuracy else 1.0
            )
        state.seconds += time.monotonic() - begin
        line = f"{stage.kind} {stage.length}: step {state.steps}, {state.seconds:.0f} of {limit:.0f} s"
        self.tell(f"{line}, loss {value:.4f}, accuracy {state.accuracy:.4f}")
        reached = stage.goal is not None and state.accuracy >= stage.goal and state.steps >= 3 * LOOK
        if reached or state.seconds >= limit:
            self._next(stage)

    def _next(self, stage: Stage) -> None:
        state = self.state
        self.log.append({**asdict(stage), **asdict(state)})
        following = state.stage + 1
        kind = self.recipe[following].kind if following < len(self.recipe) else None
        self.state = State(left=state.left - state.seconds, stage=following)
        if kind is not None and kind != stage.kind:
            self.optimiser = self._optimiser()
        self.keep()

    def save(self) -> None:
        """Write the checkpoint; the old one stays until the new one is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        held = {
            "shape": asdict(self.model.shape),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "state": asdict(self.state),
            "log": self.log,
            "source": self.source.getstate(),
            "noise": self.noise.get_state(),
        }
        part = self.folder / (CHECKPOINT + ".part")
        torch.save(held, part)
        part.replace(self.folder / CHECKPOINT)

    def resume(self) -> None:
        """Go on from the checkpoint in the folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is of another shape.
        """
        device = self.model.lm_head.weight.device
        held = torch.load(self.folder / CHECKPOINT, map_location="cpu", weights_only=False)
        if held["shape"] != asdict(self.model.shape):
            raise ValueError(f"{self.folder / CHECKPOINT} is of another shape: {held['shape']}")
        self.model.load_state_dict(held["model"])
        self.model.to(device)
        self.state, self.log = State(**held["state"]), held["log"]
        self.optimiser = self._optimiser()
        if not self.done:
            self.optimiser.load_state_dict(held["optimiser"])
        self.source.setstate(held["source"])
        self.noise.set_state(held["noise"])
