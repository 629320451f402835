"""Run an A/B: start servers, measure in turns, keep what was measured whatever happens."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from statistics import median
from typing import Any

from sglang_hisa.launch.ab import client as loads
from sglang_hisa.launch.ab import estimate, quality, resume, validity
from sglang_hisa.launch.ab.plan import SHARED_GPU, Plan, visits
from sglang_hisa.launch.ab.running import RunningServer
from sglang_hisa.launch.ab.start import new_facts, started
from sglang_hisa.launch.common import auth, ends, fresh, limits, pruning, steady
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.client import Client, ClientFailed
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.provenance import provenance
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess


def retractions(log: Path) -> int:
    """Requests that the server of ``log`` retracted for want of KV slots (it says so nowhere else)."""
    return sum(map(int, re.findall(r"#retracted_reqs: (\d+)", log.read_text(errors="replace"))))


def decoded(text: str, at_once: int) -> float | None:
    """Tokens a second of decode by the server's log, the median of its lines with ``at_once`` requests.

    None of fewer than three: the first has the prefill before it in its time.
    """
    line = r"Decode batch.*?#running-req: (\d+).*?gen throughput \(token/s\): ([\d.]+)"
    rates = [float(rate) for running, rate in re.findall(line, text) if int(running) == at_once]
    return median(rates) if len(rates) >= 3 else None


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
        earlier: record of a run of the same plan that was cut off, to go on with (:mod:`.resume`).

        urls: arms that already run, by name (:mod:`.running`); nothing is started.

    Raises:
        ValueError: ``earlier`` cannot be gone on with.
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
    earlier: Mapping[str, Any] | None = None
    urls: Mapping[str, str] | None = None
    record: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._infos: dict[str, dict[str, Any]] = {}
        self._asked: dict[int, quality.Asked] = {}
        self._prefixes: dict[Arm, int] = {}
        self._compared: set[Arm] = set()
        self._took: dict[tuple[str, int], list[float]] = {}
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
        if self.earlier is not None:
            self.record |= {
                "measurements": resume.kept(self.earlier, self.record),
                "arms": resume.arms(self.earlier, self.record),
                "resumed": [*self.earlier.get("resumed", ()), self.earlier["provenance"]["date"]],
            }
        self._left = set(resume.left(self.record))
        self._retracted = {name: arm["retractions"] for name, arm in self.record["arms"].items()}

    def run(self) -> int:
        """Measure everything; returns the exit code: 0, 1 an arm failed, 2 refused, 130 interrupted."""
        code = 0
        try:
            if self._left:
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

    def _cells(self, index: int) -> list[int]:
        """Cells that are to be measured in a round: all, but for those of an earlier run."""
        return [number for number in range(len(self.plan.cells)) if (index, number) in self._left]

    def _one_by_one(self, client: Client) -> None:
        for arm, every in visits(self.plan):
            if not (rounds := [index for index in every if self._cells(index)]):
                continue
            with self._server(arm) as server:
                self._started(arm, server)
                warm: set[int] = set()
                for index in rounds:
                    for number in self._cells(index):
                        self._measure(client, arm, server, index, number, warmup=number not in warm)
                        warm.add(number)
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
            warm: set[int] = set()
            for index, cells in self._turns():
                for number in cells:
                    for arm in self.plan.order(index):
                        self._measure(client, arm, servers[arm], index, number, warmup=number not in warm)
                    warm.add(number)
                for arm in self.plan.arms:
                    self._compare(arm, servers[arm])
                    told = self._retracted[arm.name] + retractions(servers[arm].log)
                    self.record["arms"][arm.name]["retractions"] = None if self.urls else told
                    self._served(arm, servers[arm])

    def _turns(self) -> list[tuple[int, list[int]]]:
        """Rounds and their cells: first of all cells that flush the cache, then of each shared prefix.

        So a prefix is read once, not once a round.
        """
        prefix = [cell.prefix_tokens for cell in self.plan.cells]
        return [
            (index, [number for number in self._cells(index) if prefix[number] == length])
            for length in sorted(set(prefix))
            for index in range(self.plan.rounds)
        ]

    def _server(self, arm: Arm) -> ServerProcess:
        flags = self.flags
        if self.plan.together:
            flags = [*SHARED_GPU, *flags]  # flags of the user's own come last and win
        log = self.folder / f"server-{arm.name}.log"
        if self.urls is not None:
            return RunningServer(self.urls[arm.name], log)
        return ServerProcess(flags, env=self.make_env(arm.setting), log=log)

    def _started(self, arm: Arm, server: ServerProcess) -> None:
        self._prefixes.pop(arm, None)
        facts = self.record["arms"][arm.name]
        baseline = self._infos.get(self.plan.arms[0].name)
        info, problems = started(arm, server, facts, baseline, self.timeout, self.tell)
        self._infos.setdefault(arm.name, info)
        problems = problems + validity.pool_problems(arm.name, facts, self.plan.cells)
        if not problems and "limits" not in facts:
            problems = self._fits(arm, limits.ask(server.url, info))
        if self.urls is not None:  # neither is known of a server that was found running
            facts |= {"starts_s": [], "retractions": None}
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
            elif cell.prefix_tokens and (why := known.crowding(0, 0, cell.concurrency)):
                refused.append(f"arm {arm.name}: {why} (--max-running-requests)")
            elif not cell.prefix_tokens and (
                why := known.crowding(cell.input_tokens, cell.output_tokens, cell.concurrency)
            ):
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
        """Ask the prompts of an arm, once, and compare with the baseline, which is always asked first."""
        if not self.prompts or arm in self._compared:
            return
        self._compared.add(arm)
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
        begin = time.monotonic()
        seed = self.plan.seed + 1000 * index + number  # of the pair, the same in every arm
        prefix = (
            (f"{self._fresh(arm, self.plan.seed)} prefix", cell.prefix_tokens) if cell.prefix_tokens else None
        )
        warm: list[int] = []
        try:
            if warmup or prefix:
                flags = loads.arguments(server.url, self.model, self.plan.warmup(cell), seed)
                new = f"{self._fresh(arm, seed)} warm-up of {arm.name}"
                warm = client.run(flags, fresh=new, prefix=prefix)["cached_tokens"]
            flags = loads.arguments(server.url, self.model, cell, seed)
            begun = server.log.stat().st_size
            result = client.run(flags, fresh=self._fresh(arm, seed), prefix=prefix)
            found = {
                **loads.summarise(result),
                "steady": steady.of_result(result, cell.concurrency, cell.output_tokens),
            }
            if server.exit_code() is not None:
                raise ServerFailed("ended in the middle of a measurement")
        except (ServerFailed, ClientFailed) as error:
            raise self._failed(arm, server, error) from error
        place = {"round": index, "arm": arm.name, "cell": number, "seed": seed, "requests": cell.requests}
        if found["steady"]:
            with server.log.open(errors="replace") as log:
                log.seek(begun)
                found["steady"]["server_tok_s"] = decoded(log.read(), cell.concurrency)
        if prefix:
            # What the server has seen of the prefix since it started, or since a cell flushed its cache.
            found["known_prefix"] = self._prefixes.get(arm, 0)
            found["warmup_cached"] = sum(warm)
        self._prefixes[arm] = max(self._prefixes.get(arm, 0), cell.prefix_tokens) if prefix else 0
        self.record["measurements"].append({**place, **found})
        self.save(self.record)
        ttft = median(found["ttft_s"]) if found["ttft_s"] else float("nan")
        load = f"{cell.input_tokens} tokens x {cell.concurrency}"
        decode = f", ITL {found['steady']['itl_p50'] * 1e3:.2f} ms" if found["steady"] else ""
        self._took.setdefault((arm.name, number), []).append(time.monotonic() - begin)
        said = f"round {index + 1}/{self.plan.rounds} {arm.name}: {load}, TTFT {ttft:.3f} s{decode}"
        left = estimate.remaining(self._took, self._todo())
        self.tell(said if left is None else f"{said}; about {estimate.words(left)} left")
        kept = self.record["measurements"][-1]
        if validity.old_prompts(kept, vars(cell)) or validity.prefix_problems(kept, vars(cell)):
            raise Invalid  # the reason is among those of the record

    def _todo(self) -> list[tuple[str, int]]:
        """Arm and cell of every measurement that is still to do."""
        done = {(one["round"], one["cell"], one["arm"]) for one in self.record["measurements"]}
        places = ((index, number, arm.name) for index, number in self._left for arm in self.plan.arms)
        return [(arm, number) for index, number, arm in places if (index, number, arm) not in done]

    def _fresh(self, arm: Arm, seed: int) -> str:
        """What makes prompts new to caches of earlier runs; arms that may share a storage have their own."""
        shared = any(flag.startswith("--hicache-storage") for flag in self.flags)
        return f"{self.record['nonce']} {seed}{f' {arm.name}' if shared else ''}"
