"""Run an evaluation: each arm answers the same questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from sglang_hisa.config import environment
from sglang_hisa.launch.ab import validity
from sglang_hisa.launch.common import ends, pruning
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess
from sglang_hisa.launch.eval import client, longbench, report, ruler, stats
from sglang_hisa.launch.eval.child import Job
from sglang_hisa.launch.eval.families import RECORDS, Family
from sglang_hisa.launch.eval.record import Answer, EvalArm, EvalRecord, KeptPlan
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

    def kept(self) -> KeptPlan:
        """The ``plan`` of the record."""
        settings = {arm.name: arm.setting for arm in self.arms}
        asked = (self.tasks, self.contexts, self.samples, self.seed)
        return KeptPlan(tuple(settings), self.arms[0].name, *asked, settings, self.suite, self.family.name)


@dataclass
class Run:
    """An evaluation under way, kept in ``folder``; who changes what is known holds the lock."""

    plan: Plan
    model: str
    folder: Path
    tell: ProgressCallback
    complete: bool = False
    refusals: list[str] = field(default_factory=list)
    arms: dict[str, EvalArm] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)
    origin: Provenance = field(default_factory=lambda: Provenance(**provenance()))

    def record(self) -> EvalRecord:
        """What is known, with rows made anew."""
        return EvalRecord(
            complete=self.complete,
            refusals=tuple(self.refusals),
            provenance=self.origin,
            model=self.model,
            plan=self.plan.kept(),
            arms=dict(self.arms),
            answers=tuple(self.answers),
            rows=stats.rows(self.answers, self.plan.arms[0].name),
        )

    def save(self) -> None:
        """Write the record."""
        report.save(self.record(), self.folder)

    def facts(self, arm: str) -> EvalArm:
        """What is known of an arm."""
        return self.arms.get(arm, EvalArm())


def ask(run: Run, arm: str, url: str) -> None:
    """Put every question to the server at ``url``; the record is saved now and then.

    Raises:
        OSError: the server stopped answering, or the program that asks a suite failed.
    """
    if run.plan.suite != "own":
        _ask_suite(run, arm, url)
        return
    questions = run.plan.questions()
    told, tokens_of = 0.0, {}
    for done, (number, sample, text, tokens) in enumerate(
        client.ask_all(url, questions, run.plan.at_once), 1
    ):
        right = text.startswith(sample.answer)
        tokens_of[sample.context] = tokens
        with run.lock:
            run.answers.append(Answer(arm, sample.task, sample.context, sample.depth, number, right))
            if time.monotonic() - told > 3 or done == len(questions):
                told = time.monotonic()
                run.tell(f"{arm}: {done}/{len(questions)} answers")
                run.save()
    with run.lock:
        run.arms[arm] = replace(run.facts(arm), prompt_tokens=tokens_of)


def _ask_suite(run: Run, arm: str, url: str) -> None:
    """The same by another program."""
    plan, env = run.plan, child_env(environment())
    job = Job(url, arm, plan.contexts, plan.tasks, plan.samples, plan.at_once, env, run.folder, run.tell)
    made, left_out = (ruler.ask(job), None) if plan.suite == "ruler2" else longbench.ask(job)
    with run.lock:
        longbench.check_same(run.answers, made)
        run.answers += made
        run.arms[arm] = replace(run.facts(arm), left_out=left_out)
        run.save()


def run_arms(
    run: Run,
    *,
    flags: Sequence[str],
    make_env: Callable[[str | None], Mapping[str, str]],
    timeout: float,
    together: bool,
) -> int:
    """Start each arm as a server and ask it; 0, 1 an arm failed, 2 an arm was not what it says.

    ``together``: all servers run and answer at once; only answers are compared, no times. An arm that
    fails does not stop the others then.
    """
    logs = {arm: run.folder / f"server-{arm.name}.log" for arm in run.plan.arms}
    servers = {arm: ServerProcess(flags, env=make_env(arm.setting), log=logs[arm]) for arm in run.plan.arms}

    def serve(arm: Arm) -> int:
        """The arm's exit code; its reasons are in the record."""
        server = servers[arm]
        run.tell(f"{arm.name}: starting (log: {server.log})")
        try:
            with nullcontext() if together else server:
                problems = _run_arm(run, arm, server, timeout)
        except (ServerFailed, OSError) as error:
            said = str(error)
            run.tell(f"{said}; its log: {server.log}")
            problems, code = [f"{said.splitlines()[0]}; its log: {server.log}"], 1
        else:
            code = 2 if problems else 0
        with run.lock:
            run.refusals += problems
            run.save()
        return code

    if together:
        codes = _all_at_once(servers, serve)
    else:
        codes = []
        for arm in servers:
            codes.append(serve(arm))
            if codes[-1]:
                break
    run.complete = not any(codes)
    run.save()
    return next((code for code in codes if code), 0)


def _all_at_once(servers: Mapping[Arm, ServerProcess], serve: Callable[[Arm], int]) -> list[int]:
    """Exit code of each arm. However this ends, the servers stop first, and then nobody waits for them."""
    with ThreadPoolExecutor(len(servers)) as pool, ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(server)
        return list(pool.map(serve, servers))


def _run_arm(run: Run, arm: Arm, server: ServerProcess, timeout: float) -> list[str]:
    """Wait for the server, check what it serves, ask it; why the arm is not believed, or nothing.

    Raises:
        ServerFailed: it ended, or stopped answering; the record has the end of its log.
    """

    def starting(seconds: float, line: str) -> None:
        run.tell(f"{arm.name}: starting, {seconds:.0f} s {line}")

    def known(facts: EvalArm) -> None:
        with run.lock:
            run.arms[arm.name] = facts

    try:
        known(EvalArm(starts_s=round(server.wait_ready(timeout, starting, every=5), 1)))
        receipts = server.receipts()
        problems = validity.arm_problems(arm.name, arm.setting, receipts)
        if not problems:
            ask(run, arm.name, server.url)
            receipts = server.receipts()
    except (ServerFailed, OSError) as error:
        said, ended = ends.explain(server, f"arm {arm.name}", error)
        known(replace(run.facts(arm.name), log_tail=ended["log_tail"], killed=ended["killed"]))
        raise ServerFailed(said) from error
    # After the answers: with what was pruned for them.
    rows = pruning.of_receipts(receipts)
    known(replace(run.facts(arm.name), known=True, receipt=receipts[0], rows=tuple(rows) if rows else None))
    return problems


def run_urls(run: Run, urls: Sequence[str]) -> int:
    """Ask servers that run already; arm and URL have the same place. 0, or 1 where one stopped answering."""
    for arm, url in zip(run.plan.arms, urls):
        before = pruning.of_server(url)
        try:
            ask(run, arm.name, url)
        except OSError as error:
            run.refusals.append(f"{url}: {error}")
            run.save()
            return 1
        rows = pruning.since(before, pruning.of_server(url))
        run.arms[arm.name] = replace(run.facts(arm.name), rows=tuple(rows) if rows else None)
    run.complete = True
    run.save()
    return 0
