"""RULER2 questions to a server, asked and graded by `sgl-eval`, in the record of `hisa eval`.

sgl-eval makes a data set for each tokenizer and length, which downloads what its tasks are made of, and keeps
it in ~/.cache/sgl_eval; the arms that follow get the same prompts.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_hisa.launch.eval import child
from sglang_hisa.launch.eval.child import SuiteFailed

TASKS = tuple(
    f"{kind}_{level}"
    for kind in ("mk_niah", "mv_niah", "qa")
    for level in ("basic", "easy", "medium", "hard")
)
"""Of sgl-eval 0.1.3: multi-key and multi-value needles, and questions about texts."""
MISSING = "hisa eval --ruler2 needs sgl-eval: pip install 'sgl-eval[longcontext]'"
ANSWER = 512
"""Tokens that an answer may have."""

Answers = list[dict[str, Any]]


def installed() -> bool:
    """Whether this interpreter has sgl-eval."""
    return importlib.util.find_spec("sgl_eval") is not None


def command(
    url: str, folder: Path, tokenizer: str, context: int, tasks: Sequence[str], samples: int, at_once: int
) -> list[str]:
    """sgl-eval's command line for one length, ``samples`` questions of each task."""
    return [
        *(sys.executable, "-m", "sgl_eval.cli", "run", "ruler2", "--base-url", f"{url}/v1"),
        *("--ruler2-seq-len", str(context), "--ruler2-dataset-size", str(samples)),
        *("--ruler2-tokenizer", tokenizer, "--ruler2-tasks", *tasks, "--num-threads", str(at_once)),
        *("--temperature", "0", "--max-tokens", str(ANSWER), "--out-dir", str(folder)),
    ]


def read(folder: Path, arm: str, context: int) -> Answers:
    """Graded answers below ``folder``, as entries of the record.

    ``right``: the whole answer; sgl-eval's score of a question with several values is their share.
    """
    found = []
    for path in sorted(folder.glob("sgl_eval_ruler2_*/**/output-rs0.jsonl")):
        for line in path.read_text().splitlines():
            given = json.loads(line)
            task, _, number = given["id"].rpartition("-")
            one = {"arm": arm, "task": task, "context": context, "depth": 0.0, "sample": int(number)}
            if given["finish_reason"] == "error":
                raise SuiteFailed(f"sgl-eval: a request of {task} failed, see {path}")
            found.append({**one, "right": float(given["is_correct"]) >= 1})
    return found


def ask(
    url: str,
    folder: Path,
    arm: str,
    contexts: Sequence[int],
    *,
    tokenizer: str,
    tasks: Sequence[str],
    samples: int,
    at_once: int,
    env: Mapping[str, str],
    tell: Callable[[str], None],
) -> Answers:
    """All questions of all lengths to the server at ``url``.

    Raises:
        SuiteFailed: sgl-eval failed, or a question has no graded answer.
    """
    done: Answers = []
    for context in sorted(contexts):
        place = folder / "sgl-eval" / arm.replace("/", "_") / f"{context}-{time.time_ns()}"
        place.mkdir(parents=True)
        log = place / "log"
        words = command(url, place, tokenizer, context, tasks, samples, at_once)
        what = f"{arm}, ruler2 at {context}"

        def answers(place: Path = place, what: str = what) -> None:
            count = sum(len(path.read_text().splitlines()) for path in place.glob("**/output-rs0.jsonl"))
            tell(f"{what}: {count} answers")

        child.run("sgl-eval", words, log, env, answers)
        found = read(place, arm, context)
        if len(found) != samples * len(tasks):
            text = f"sgl-eval graded {len(found)} of {samples * len(tasks)} answers"
            raise SuiteFailed(f"{text}\n{child.tail(log)}")
        done += found
    return done
