"""LongBench questions to a server, asked and graded by EleutherAI's `lm-eval`, in the record of `hisa eval`.

lm-eval loads the data set from Hugging Face and keeps it; the arms that follow get the same prompts. What its
`local-completions` (0.4.13) does when left alone, and what is done about it here:

* it sends the task files' ``temperature: 1`` and drops their ``do_sample: False``: the temperature is set
  to 0;
* it takes 2048 tokens for the server's context, and of longer prompts drops the beginning, with the
  instructions, without a word (LongBench itself cuts the middle out): it is told the true length, and prompts
  that are longer than the longest context asked for are counted and left out, cut or not.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from sglang_hisa.launch.common.server import fetch
from sglang_hisa.launch.eval import child
from sglang_hisa.launch.eval.child import Job, SuiteFailed
from sglang_hisa.launch.eval.record import Answer

TASKS = (
    *("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
    *("hotpotqa", "2wikimqa", "musique", "dureader"),
    *("gov_report", "qmsum", "multi_news", "vcsum"),
    *("trec", "triviaqa", "samsum", "lsht"),
    *("passage_count", "passage_retrieval_en", "passage_retrieval_zh"),
    *("lcc", "repobench-p"),
)
"""LongBench's (arXiv 2308.14508); lm-eval puts ``longbench_`` before the name."""
_NOT_EVEN = (
    *("narrativeqa", "multifieldqa_zh", "musique", "dureader"),
    *("qmsum", "vcsum", "lsht", "passage_retrieval_zh"),
)
EVEN = tuple(f"{task}_e" for task in TASKS if task not in _NOT_EVEN)
"""LongBench-E's: as many prompts of up to 4K, up to 8K and more words."""
MISSING = "hisa eval --longbench needs lm-eval: pip install 'lm-eval[api,longbench]'"
NEEDS = ("lm_eval", "aiohttp", "requests", "tenacity", "tqdm", "jieba", "fuzzywuzzy", "rouge", "scipy")
ANSWER = 512
"""Tokens that an answer may have in the task with the longest."""
ROOM = 2 * ANSWER
"""Tokens that a server holds beyond the longest context: then lm-eval cuts no prompt that fits it."""


def installed() -> bool:
    """Whether this interpreter has lm-eval with what it needs to ask servers and to grade LongBench."""
    return all(importlib.util.find_spec(name) is not None for name in NEEDS)


def command(job: Job, folder: Path, model: str, tokenizer: str, length: int) -> list[str]:
    """lm-eval's command line; ``length`` tokens of context."""
    asked = {
        "model": model,
        "base_url": f"{job.url}/v1/completions",
        "tokenizer": tokenizer,
        "tokenizer_backend": "huggingface",
        "add_bos_token": True,  # what the server does with a prompt in words
        "num_concurrent": job.at_once,
        "max_length": length,
        "timeout": 3600,
    }
    return [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"),
        *("--model_args", json.dumps(asked), "--gen_kwargs", json.dumps({"temperature": 0})),
        *("--tasks", *(f"longbench_{task}" for task in job.tasks), "--limit", str(job.samples)),
        *("--log_samples", "--output_path", str(folder)),
    ]


def read(folder: Path, tasks: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's graded samples below ``folder``, by task.

    Raises:
        SuiteFailed: no results, less samples of a task than lm-eval says it asked, or one without a score.
    """
    results = [json.loads(path.read_text()) for path in folder.glob("*/results_*.json")]
    if len(results) != 1:
        raise SuiteFailed(f"lm-eval left {len(results)} files of results below {folder}")
    found = {}
    for task in tasks:
        files = folder.glob(f"*/samples_longbench_{task}_[0-9]*.jsonl")
        samples = [json.loads(line) for path in files for line in path.read_text().split("\n") if line]
        asked = results[0]["n-samples"][f"longbench_{task}"]["effective"]
        if not asked or len({one["doc_id"] for one in samples}) != asked or len(samples) != asked:
            raise SuiteFailed(f"lm-eval graded {len(samples)} of {asked} answers of {task}")
        for one in samples:
            if not 0 <= one.get("score", -1) <= 1:
                raise SuiteFailed(f"lm-eval gave no score between 0 and 1 to an answer of {task}")
            if one["arguments"]["gen_args_0"]["arg_1"]["max_gen_toks"] > ANSWER:
                raise SuiteFailed(f"{task} asks for answers of more than {ANSWER} tokens")
        found[task] = samples
    return found


def ask(job: Job) -> tuple[list[Answer], dict[str, tuple[int, int]]]:
    """What was answered, and by task how many prompts were left out, and how many asked.

    An answer's ``context`` is the shortest of ``contexts`` that holds its prompt, ``tokens`` the prompt's
    length; prompts that none holds are left out.

    Raises:
        SuiteFailed: the server's context is too short, lm-eval failed, or an answer is not graded.
        OSError: the server does not answer, or is not SGLang's (``/server_info``, ``/tokenize``).
    """
    tokenizer = json.loads(fetch(f"{job.url}/server_info", timeout=30))["tokenizer_path"]
    card = json.loads(fetch(f"{job.url}/v1/models", timeout=30))["data"][0]
    length, holds = max(job.contexts) + ROOM, card.get("max_model_len")
    if holds is not None and holds < length:
        raise SuiteFailed(f"the server holds {holds} tokens: --contexts up to {holds - ROOM}")
    place = job.place("lm-eval")
    log = place / "log"
    words = command(job, place, card["id"], tokenizer, length)
    child.run("lm-eval", words, log, job.env, lambda: job.tell(f"{job.arm}, longbench: {child.tail(log, 1)}"))
    done: list[Answer] = []
    left_out = {}
    with ThreadPoolExecutor(job.at_once) as pool:
        for task, given in read(place, job.tasks).items():
            fitting = list(filter(None, pool.map(partial(_answer, job, task), given)))
            done += fitting
            left_out[task] = (len(given) - len(fitting), len(given))
    return done, left_out


def check_same(answers: Sequence[Answer], more: Sequence[Answer]) -> None:
    """Raise :class:`SuiteFailed` where a prompt of ``more`` is not the one that other arms got."""
    known = {(one.task, one.sample): one.prompt for one in answers}
    for one in more:
        if known.get((one.task, one.sample), one.prompt) != one.prompt:
            raise SuiteFailed(f"arm {one.arm} got other prompts of {one.task} than the arms before")


def _answer(job: Job, task: str, one: Mapping[str, Any]) -> Answer | None:
    """A sample that lm-eval graded; None where no context holds its prompt."""
    prompt, digest = one["arguments"]["gen_args_0"]["arg_0"], one["prompt_hash"][:16]
    tokens = int(json.loads(fetch(f"{job.url}/tokenize", {"prompt": prompt}))["count"])
    if not (held := [context for context in job.contexts if context >= tokens]):
        return None
    place = (job.arm, task, min(held), 0.0, one["doc_id"])
    return Answer(*place, prompt=digest, tokens=tokens, score=float(one["score"]))
