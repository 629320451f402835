"""Run an evaluation: each arm answers the same questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from sglang_hisa.config import environment
from sglang_hisa.launch.ab import validity
from sglang_hisa.launch.common import ends, pruning
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.provenance import provenance
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess
from sglang_hisa.launch.eval import client, longbench, report, ruler
from sglang_hisa.launch.eval.families import RECORDS, Family
from sglang_hisa.launch.eval.tasks import DEPTHS, Sample
from sglang_hisa.launch.load.sweep import child_env


@dataclass(frozen=True)
class Plan:
    """Tasks x contexts x depths x ``samples`` questions; the first arm is the baseline."""

    arms: tuple[Arm, ...]
    tasks: tuple[str, ...]
    contexts: tuple[int, ...]
    samples: int
    at_once: int
    seed: int
    suite: str = "own"
    """``own``, ``ruler2`` (asked by sgl-eval) or ``longbench`` (by lm-eval)."""
    family: Family = RECORDS
    """Of our own questions."""

    def questions(self) -> list[tuple[int, Sample]]:
        """Short contexts first: where time ends early, they are complete."""
        return [
            (n, self.family.make(task, context, depth, 1000 * self.seed + n))
            for context in sorted(self.contexts)
            for task in self.tasks
            for depth in DEPTHS
            for n in range(self.samples)
        ]

    def as_json(self) -> dict[str, Any]:
        """The ``plan`` of the record."""
        return {
            "arms": [arm.name for arm in self.arms],
            "settings": {arm.name: arm.setting for arm in self.arms},
            "baseline": self.arms[0].name,
            "suite": self.suite,
            "family": self.family.name,
            "tasks": list(self.tasks),
            "contexts": list(self.contexts),
            "samples": self.samples,
            "seed": self.seed,
        }


def new_record(plan: Plan, model: str) -> dict[str, Any]:
    """A record without answers."""
    return {
        "schema_version": report.VERSION,
        "kind": report.KIND,
        "complete": False,
        "refusals": [],
        "provenance": provenance(),
        "model": model,
        "plan": plan.as_json(),
        "arms": {},
        "answers": [],
        "rows": [],
    }


def ask(
    record: dict[str, Any],
    plan: Plan,
    arm: str,
    url: str,
    folder: Path,
    tell: ProgressCallback,
    lock: Lock | None = None,
) -> None:
    """Put every question to the server at ``url``; the record is saved now and then, under ``lock``.

    Raises:
        OSError: the server stopped answering, or the program that asks a suite failed.
    """
    lock = lock or Lock()
    if plan.suite != "own":
        made, facts = _ask_suite(plan, arm, url, folder, tell)
        with lock:
            longbench.check_same(record["answers"], made)
            record["answers"] += made
            record["arms"].setdefault(arm, {}).update(facts)
            report.save(record, folder)
        return
    questions = plan.questions()
    told, tokens_of = 0.0, {}
    for done, (number, sample, text, tokens) in enumerate(client.ask_all(url, questions, plan.at_once), 1):
        answer = {
            "arm": arm,
            "task": sample.task,
            "context": sample.context,
            "depth": sample.depth,
            "sample": number,
            "right": text.startswith(sample.answer),
        }
        tokens_of[sample.context] = tokens
        with lock:
            record["answers"].append(answer)
            if time.monotonic() - told > 3 or done == len(questions):
                told = time.monotonic()
                tell(f"{arm}: {done}/{len(questions)} answers")
                report.save(record, folder)
    with lock:
        record["arms"].setdefault(arm, {})["prompt_tokens"] = tokens_of


def _ask_suite(
    plan: Plan, arm: str, url: str, folder: Path, tell: ProgressCallback
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Answers of another program, and what else the record says of the arm."""
    given: dict[str, Any] = {"tasks": plan.tasks, "samples": plan.samples, "at_once": plan.at_once}
    given |= {"env": child_env(environment()), "tell": tell}
    if plan.suite == "ruler2":
        return ruler.ask(url, folder, arm, plan.contexts, tokenizer=client.model_name(url), **given), {}
    made, left_out = longbench.ask(url, folder, arm, plan.contexts, **given)
    return made, {"left_out": left_out}


def run_arms(
    record: dict[str, Any],
    plan: Plan,
    *,
    flags: Sequence[str],
    make_env: Callable[[str | None], Mapping[str, str]],
    folder: Path,
    tell: ProgressCallback,
    timeout: float,
    together: bool,
) -> int:
    """Start each arm as a server and ask it; 0, 1 an arm failed, 2 an arm was not what it says.

    ``together``: all servers run and answer at once; only answers are compared, no times. An arm that
    fails does not stop the others then.
    """
    logs = {arm: folder / f"server-{arm.name}.log" for arm in plan.arms}
    servers = {arm: ServerProcess(flags, env=make_env(arm.setting), log=logs[arm]) for arm in plan.arms}
    lock = Lock()

    def serve(arm: Arm) -> int:
        """The arm's exit code; its reasons are in the record."""
        server = servers[arm]
        tell(f"{arm.name}: starting (log: {server.log})")
        try:
            with nullcontext() if together else server:
                problems = _run_arm(record, plan, arm, server, folder, tell, timeout, lock)
        except (ServerFailed, OSError) as error:
            said = str(error)
            tell(f"{said}; its log: {server.log}")
            problems, code = [f"{said.splitlines()[0]}; its log: {server.log}"], 1
        else:
            code = 2 if problems else 0
        with lock:
            record["refusals"] += problems
            report.save(record, folder)
        return code

    if together:
        codes = _all_at_once(servers, serve)
    else:
        codes = []
        for arm in servers:
            codes.append(serve(arm))
            if codes[-1]:
                break
    record["complete"] = not any(codes)
    report.save(record, folder)
    return next((code for code in codes if code), 0)


def _all_at_once(servers: Mapping[Arm, ServerProcess], serve: Callable[[Arm], int]) -> list[int]:
    """Exit code of each arm. However this ends, the servers stop first, and then nobody waits for them."""
    with ThreadPoolExecutor(len(servers)) as pool, ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(server)
        return list(pool.map(serve, servers))


def _run_arm(
    record: dict[str, Any],
    plan: Plan,
    arm: Arm,
    server: ServerProcess,
    folder: Path,
    tell: ProgressCallback,
    timeout: float,
    lock: Lock,
) -> list[str]:
    """Wait for the server, check what it serves, ask it; why the arm is not believed, or nothing.

    Raises:
        ServerFailed: it ended, or stopped answering; the record has the end of its log.
    """

    def starting(seconds: float, line: str) -> None:
        tell(f"{arm.name}: starting, {seconds:.0f} s {line}")

    facts: dict[str, Any] = {"starts_s": None}
    record["arms"][arm.name] = facts
    try:
        facts["starts_s"] = round(server.wait_ready(timeout, starting, every=5), 1)
        receipts = server.receipts()
        problems = validity.arm_problems(arm.name, arm.setting, receipts)
        if not problems:
            ask(record, plan, arm.name, server.url, folder, tell, lock)
            receipts = server.receipts()
    except (ServerFailed, OSError) as error:
        said, ended = ends.explain(server, f"arm {arm.name}", error)
        facts |= ended
        raise ServerFailed(said) from error
    facts["receipt"] = receipts[0]  # after the answers: with what was pruned for them
    facts["rows"] = pruning.of_receipts(receipts)
    return problems


def run_urls(
    record: dict[str, Any], plan: Plan, urls: Sequence[str], folder: Path, tell: ProgressCallback
) -> int:
    """Ask servers that run already; arm and URL have the same place. 0, or 1 where one stopped answering."""
    for arm, url in zip(plan.arms, urls):
        before = pruning.of_server(url)
        try:
            ask(record, plan, arm.name, url, folder, tell)
            rows = pruning.since(before, pruning.of_server(url))
            record["arms"].setdefault(arm.name, {})["rows"] = rows
        except OSError as error:
            record["refusals"].append(f"{url}: {error}")
            report.save(record, folder)
            return 1
    record["complete"] = True
    report.save(record, folder)
    return 0
