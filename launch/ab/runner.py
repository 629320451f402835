"""Run an A/B: start servers, measure in turns, keep what was measured whatever happens."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from statistics import median
from typing import Any

from sglang_hisa.launch.ab import client as loads
from sglang_hisa.launch.ab import quality, validity
from sglang_hisa.launch.ab.plan import SHARED_GPU, Plan, visits
from sglang_hisa.launch.ab.start import new_facts, started
from sglang_hisa.launch.common import auth, ends, fresh, limits, pruning
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.client import Client, ClientFailed
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.provenance import provenance
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess


def retractions(log: Path) -> int:
    """Requests that the server of ``log`` retracted for want of KV slots (it says so nowhere else)."""
    return sum(map(int, re.findall(r"#retracted_reqs: (\d+)", log.read_text(errors="replace"))))


class Invalid(RuntimeError):
    """An arm is not what it should be; nothing more is measured."""


@dataclass
class Runner:
    """One A/B.

    Args:
        plan: what to measure.
        model: path or name, as SGLang takes it.
        flags: SGLang's flags of every arm, model included.
        make_env: ``SGLANG_HISA`` of an arm (None: stock) -> environment of its server.
        folder: takes the servers' logs.
        save: called with the record after each measurement.
        tell: progress.
        timeout: seconds that a server may take to start.
        prompts: asked of every arm beside the load, of the baseline twice (:mod:`.quality`).
    """

    plan: Plan
    model: str
    flags: list[str]
    make_env: Callable[[str | None], Mapping[str, str]]
    folder: Path
    save: Callable[[dict[str, Any]], object]
    tell: ProgressCallback
    timeout: float = 1800
    prompts: Sequence[quality.Prompt] = ()
    record: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._infos: dict[str, dict[str, Any]] = {}
        self._asked: dict[int, quality.Asked] = {}
        self.record = {
            "schema_version": 1,
            "kind": "hisa-ab",
            "complete": False,
            "stopped_by": None,
            "refusals": [],
            "provenance": provenance(),
            "model": self.model,
            "flags": auth.redacted(self.flags),
            "plan": self.plan.as_json(),
            "nonce": fresh.nonce(),
            "arms": {arm.name: new_facts(arm) for arm in self.plan.arms},
            "measurements": [],
            "quality": [],
            "quality_problems": [],
        }

    def run(self) -> int:
        """Measure everything; returns the exit code: 0, 1 an arm failed, 2 refused, 130 interrupted."""
        code = 0
        try:
            with Client(self.make_env(None), self.folder / "client.log") as client:
                (self._together if self.plan.together else self._one_by_one)(client)
            self.record["complete"] = True
        except KeyboardInterrupt:
            self.record["stopped_by"], code = "interrupt", 130
        except Invalid:
            self.record["stopped_by"] = "refused"
        except (ServerFailed, ClientFailed, OSError) as error:
            # OSError: a server that died in the middle refuses the connection.
            self.record["stopped_by"], code = str(error).splitlines()[0], 1
        self.record["refusals"] += validity.load_problems(self.record)
        self.save(self.record)
        return code or (2 if self.record["refusals"] else 0)

    def _one_by_one(self, client: Client) -> None:
        for arm, rounds in visits(self.plan):
            with self._server(arm) as server:
                self._started(arm, server)
                for index in rounds:
                    for number in range(len(self.plan.cells)):
                        self._measure(client, arm, server, index, number, warmup=index == rounds[0])
                    if index == 0:
                        self._compare(arm, server)
                self.record["arms"][arm.name]["retractions"] += retractions(server.log)
                self._served(arm, server)

    def _together(self, client: Client) -> None:
        """All servers at once, one of them busy at a time: the turns are seconds apart, not minutes."""
        with ExitStack() as stack:
            # --max-total-tokens bounds each pool, so that they can start at once.
            servers = {arm: stack.enter_context(self._server(arm)) for arm in self.plan.arms}
            for arm, server in servers.items():
                self._started(arm, server)
            for index in range(self.plan.rounds):
                for number in range(len(self.plan.cells)):
                    for arm in self.plan.order(index):
                        self._measure(client, arm, servers[arm], index, number, warmup=index == 0)
                for arm in self.plan.arms:
                    if index == 0:
                        self._compare(arm, servers[arm])
                    self.record["arms"][arm.name]["retractions"] = retractions(servers[arm].log)
                    self._served(arm, servers[arm])

    def _server(self, arm: Arm) -> ServerProcess:
        flags = self.flags
        if self.plan.together:
            flags = [*flags, *SHARED_GPU]
        log = self.folder / f"server-{arm.name}.log"
        return ServerProcess(flags, env=self.make_env(arm.setting), log=log)

    def _started(self, arm: Arm, server: ServerProcess) -> None:
        facts = self.record["arms"][arm.name]
        baseline = self._infos.get(self.plan.arms[0].name)
        info, problems = started(arm, server, facts, baseline, self.timeout, self.tell)
        self._infos.setdefault(arm.name, info)
        if not problems and "limits" not in facts:
            problems = self._fits(arm, limits.ask(server.url, info))
        if problems:
            self.record["refusals"] += problems
            raise Invalid

    def _fits(self, arm: Arm, known: limits.Limits) -> list[str]:
        """Why the arm's server would refuse a cell; that requests of one wait is told."""
        self.record["arms"][arm.name]["limits"] = known.as_json()
        refused = []
        for cell in self.plan.cells:
            if why := known.refusal(cell.input_tokens, cell.output_tokens):
                refused.append(f"arm {arm.name}: {why}")
            elif why := known.crowding(cell.input_tokens, cell.output_tokens, cell.concurrency):
                self.tell(f"{arm.name}, {cell.input_tokens} tokens x {cell.concurrency}: {why}")
        return list(dict.fromkeys(refused))

    def _served(self, arm: Arm, server: ServerProcess) -> None:
        """Keep what the rows so far looked at, as the schedulers' receipts have it."""
        self.record["arms"][arm.name]["rows"] = pruning.of_receipts(server.receipts())

    def _failed(self, arm: Arm, server: ServerProcess, error: Exception) -> ServerFailed:
        """``error`` with the arm, and the server's end if it has ended; keeps the end of its log."""
        said, facts = ends.explain(server, f"arm {arm.name}", error)
        self.record["arms"][arm.name] |= facts
        return ServerFailed(said)

    def _compare(self, arm: Arm, server: ServerProcess) -> None:
        """Ask the prompts of an arm and compare with the baseline, which is always asked first."""
        if not self.prompts:
            return
        shape = quality.model_shape(self.model)
        with_choices = "--enable-return-indexer-topk" in self.flags
        baseline = arm == self.plan.arms[0]
        for number, prompt in enumerate(self.prompts):
            self.tell(f"{arm.name}: quality, prompt {number + 1} of {len(self.prompts)}")
            try:
                if baseline:
                    self._asked[number] = quality.ask(server, prompt, shape, with_choices)
                elif number not in self._asked:
                    continue  # the baseline gave no answer, and that is in the record
                other = quality.ask(server, prompt, shape, with_choices)
                found = quality.compare(self._asked[number], other)
            except (OSError, HTTPException, ValueError) as error:
                if ends.exit_code(server) is not None:
                    raise self._failed(arm, server, error) from error
                self.record["quality_problems"].append(f"arm {arm.name}, prompt {number + 1}: {error}")
                continue
            self.record["quality"].append({"arm": arm.name, "prompt": number, **found})
            self.save(self.record)

    def _measure(
        self, client: Client, arm: Arm, server: ServerProcess, index: int, number: int, warmup: bool
    ) -> None:
        cell = self.plan.cells[number]
        seed = self.plan.seed + 1000 * index + number  # of the pair, the same in every arm
        try:
            if warmup:
                flags = loads.arguments(server.url, self.model, self.plan.warmup(cell), seed)
                client.run(flags, fresh=f"{self._fresh(arm, seed)} warm-up of {arm.name}")
            flags = loads.arguments(server.url, self.model, cell, seed)
            found = loads.summarise(client.run(flags, fresh=self._fresh(arm, seed)))
            if server.exit_code() is not None:
                raise ServerFailed("ended in the middle of a measurement")
        except (ServerFailed, ClientFailed) as error:
            raise self._failed(arm, server, error) from error
        place = {"round": index, "arm": arm.name, "cell": number, "seed": seed, "requests": cell.requests}
        self.record["measurements"].append({**place, **found})
        self.save(self.record)
        ttft = median(found["ttft_s"]) if found["ttft_s"] else float("nan")
        load = f"{cell.input_tokens} tokens x {cell.concurrency}"
        self.tell(f"round {index + 1}/{self.plan.rounds} {arm.name}: {load}, TTFT {ttft:.3f} s")
        if validity.old_prompts(self.record["measurements"][-1], vars(cell)):
            raise Invalid  # the reason is among those of the record

    def _fresh(self, arm: Arm, seed: int) -> str:
        """What makes prompts new to caches of earlier runs; arms that may share a storage have their own."""
        shared = any(flag.startswith("--hicache-storage") for flag in self.flags)
        return f"{self.record['nonce']} {seed}{f' {arm.name}' if shared else ''}"
