"""RULER2 questions to a server, asked and graded by `sgl-eval`, in the record of `hisa eval`.

sgl-eval makes a data set for each tokenizer and length, which downloads what its tasks are made of, and keeps
it in ~/.cache/sgl_eval; the arms that follow get the same prompts.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from sglang_hisa.launch.eval import child, client
from sglang_hisa.launch.eval.child import Job, SuiteFailed
from sglang_hisa.launch.eval.record import Answer

TASKS = tuple(
    f"{kind}_{level}"
    for kind in ("mk_niah", "mv_niah", "qa")
    for level in ("basic", "easy", "medium", "hard")
)
"""Of sgl-eval 0.1.3: multi-key and multi-value needles, and questions about texts."""
MISSING = "hisa eval --ruler2 needs sgl-eval: pip install 'sgl-eval[longcontext]'"
ANSWER = 512
"""Tokens that an answer may have."""


def installed() -> bool:
    """Whether this interpreter has sgl-eval."""
    return importlib.util.find_spec("sgl_eval") is not None


def command(job: Job, folder: Path, tokenizer: str, context: int) -> list[str]:
    """sgl-eval's command line for one length."""
    return [
        *(sys.executable, "-m", "sgl_eval.cli", "run", "ruler2", "--base-url", f"{job.url}/v1"),
        *("--ruler2-seq-len", str(context), "--ruler2-dataset-size", str(job.samples)),
        *("--ruler2-tokenizer", tokenizer, "--ruler2-tasks", *job.tasks, "--num-threads", str(job.at_once)),
        *("--temperature", "0", "--max-tokens", str(ANSWER), "--out-dir", str(folder)),
    ]


def read(folder: Path, arm: str, context: int) -> list[Answer]:
    """Graded answers below ``folder``.

    ``right``: the whole answer; sgl-eval's score of a question with several values is their share.
    """
    found = []
    for path in sorted(folder.glob("sgl_eval_ruler2_*/**/output-rs0.jsonl")):
        for line in path.read_text().splitlines():
            given = json.loads(line)
            task, _, number = given["id"].rpartition("-")
            if given["finish_reason"] == "error":
                raise SuiteFailed(f"sgl-eval: a request of {task} failed, see {path}")
            right = float(given["is_correct"]) >= 1
            found.append(Answer(arm, task, context, 0.0, int(number), right))
    return found


def ask(job: Job) -> list[Answer]:
    """What was answered.

    Raises:
        SuiteFailed: sgl-eval failed, or a question has no graded answer.
        OSError: the server does not answer.
    """
    tokenizer = client.model_name(job.url)
    done: list[Answer] = []
    for context in sorted(job.contexts):
        place = job.place("sgl-eval", f"{context}-")
        log = place / "log"
        words = command(job, place, tokenizer, context)
        what = f"{job.arm}, ruler2 at {context}"

        def answers(place: Path = place, what: str = what) -> None:
            count = sum(len(path.read_text().splitlines()) for path in place.glob("**/output-rs0.jsonl"))
            job.tell(f"{what}: {count} answers")

        child.run("sgl-eval", words, log, job.env, answers)
        found, asked = read(place, job.arm, context), job.samples * len(job.tasks)
        if len(found) != asked:
            text = f"sgl-eval graded {len(found)} of {asked} answers"
            raise SuiteFailed(f"{text}\n{child.tail(log)}")
        done += found
    return done
