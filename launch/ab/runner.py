"""Run an A/B: start servers, measure in turns, keep what was measured whatever happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from statistics import median

from sglang_hisa.launch.ab import estimate, quality, resume, scoring, validity
from sglang_hisa.launch.ab.client import Loads
from sglang_hisa.launch.ab.plan import SHARED_GPU, Plan, visits
from sglang_hisa.launch.ab.record import AbRecord, ArmFacts
from sglang_hisa.launch.ab.running import RunningServer
from sglang_hisa.launch.ab.start import failed, started
from sglang_hisa.launch.common import auth, ends, fresh, limits, made_up, pruning
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.client import Client, ClientFailed
from sglang_hisa.launch.common.logs import retractions
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.common.receipts import Said
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess


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
    save: Callable[[AbRecord], object]
    tell: ProgressCallback
    timeout: float = 1800
    prompts: Sequence[quality.Prompt] = ()
    earlier: AbRecord | None = None
    urls: Mapping[str, str] | None = None
    record: AbRecord = field(init=False)

    def __post_init__(self) -> None:
        self._infos: dict[str, Said] = {}
        self._asked: dict[int, quality.Asked] = {}
        self._compared: set[Arm] = set()
        self._took: dict[tuple[str, int], list[float]] = {}
        self.record = AbRecord(
            complete=False,
            refusals=(),
            provenance=Provenance(**provenance()),
            model=self.model,
            flags=tuple(auth.redacted(self.flags)),
            plan=self.plan.kept(),
            nonce=fresh.nonce(),
            arms={arm.name: ArmFacts(setting=arm.setting, retractions=0) for arm in self.plan.arms},
            measurements=(),
            spread=self.urls is None and made_up.spread(self.make_env(None), self.flags),
        )
        if (old := self.earlier) is not None:
            # Answers are compared with those of a baseline of the same run.
            alone = not (self.plan.together or self.prompts)
            self.record = replace(
                self.record,
                measurements=resume.kept(old, self.record, alone),
                arms=resume.arms(old, self.record),
                resumed=(*(old.resumed or ()), old.provenance.date or ""),
            )
        self._left = set(resume.left(self.record.plan, self.record.measurements))
        self._retracted = {name: arm.retractions or 0 for name, arm in self.record.arms.items()}

    def run(self) -> int:
        """Measure everything; returns the exit code: 0, 1 an arm failed, 2 refused, 130 interrupted."""
        code = 0
        try:
            if self._left:
                with Client(self.make_env(None), self.folder / "client.log") as client:
                    apart = any(flag.startswith("--hicache-storage") for flag in self.flags)
                    loads = Loads(
                        client, self.plan, self.model, self.record.nonce, apart, owned=self.urls is None
                    )
                    (self._together if self.plan.together else self._one_by_one)(loads)
            self.record = replace(self.record, complete=True)
        except KeyboardInterrupt:
            self.record, code = replace(self.record, stopped_by="interrupt"), 130
        except Invalid:
            self.record = replace(self.record, stopped_by="refused")
        except (ServerFailed, ClientFailed, OSError) as error:
            # OSError: a server that died in the middle refuses the connection.
            self.record, code = replace(self.record, stopped_by=str(error).splitlines()[0]), 1
        self._refuse(validity.load_problems(self.record))
        self.save(self.record)
        return code or (2 if self.record.refusals else 0)

    def _refuse(self, problems: Sequence[str]) -> None:
        self.record = replace(self.record, refusals=(*self.record.refusals, *problems))

    def _cells(self, index: int, arm: Arm) -> list[int]:
        """Cells that an arm is to be measured with in a round: all, but for those of an earlier run."""
        return [n for n in range(len(self.plan.cells)) if (index, n, arm.name) in self._left]

    def _one_by_one(self, loads: Loads) -> None:
        for arm, every in visits(self.plan):
            if not (rounds := [index for index in every if self._cells(index, arm)]):
                continue
            with self._server(arm) as server:
                self._started(arm, {arm: server})
                self._scores(arm)
                loads.known.pop(arm, None)
                warm: set[int] = set()
                for index in rounds:
                    for number in self._cells(index, arm):
                        self._measure(loads, arm, server, index, number, warmup=number not in warm)
                        warm.add(number)
                    self._compare(arm, server)
                self._retracted[arm.name] += retractions(server.log)
                self._served(arm, server, self._retracted[arm.name])

    def _together(self, loads: Loads) -> None:
        """All servers at once, one of them busy at a time: the turns are seconds apart, not minutes."""
        with ExitStack() as stack:
            # --max-total-tokens bounds each pool, so that they can start at once.
            servers = {arm: stack.enter_context(self._server(arm)) for arm in self.plan.arms}
            for arm in servers:
                self._started(arm, servers)
            for arm in servers:  # once all have taken their memory
                self._scores(arm)
            warm: set[int] = set()
            for index, cells in self._turns():
                for number in cells:
                    for arm in self.plan.order(index):
                        self._measure(loads, arm, servers[arm], index, number, warmup=number not in warm)
                    warm.add(number)
                for arm in self.plan.arms:
                    self._compare(arm, servers[arm])
                    told = self._retracted[arm.name] + retractions(servers[arm].log)
                    self._served(arm, servers[arm], None if self.urls else told)

    def _turns(self) -> list[tuple[int, list[int]]]:
        """Rounds and their cells: first of all cells that flush the cache, then of each shared prefix.

        So a prefix is read once, not once a round.
        """
        prefix = [cell.prefix_tokens for cell in self.plan.cells]
        first = self.plan.arms[0]  # all arms have the same left
        return [
            (index, [number for number in self._cells(index, first) if prefix[number] == length])
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

    def _started(self, arm: Arm, servers: Mapping[Arm, ServerProcess]) -> None:
        arms, first, kept = self.record.arms, self.plan.arms[0], self.folder / "baseline.json"
        if arm != first and first.name not in self._infos and kept.is_file():  # of the run that goes on
            self._infos[first.name] = json.loads(kept.read_text())
        info, problems = started(arm, servers, arms, self._infos.get(first.name), self.timeout, self.tell)
        self._infos.setdefault(arm.name, info)
        if arm == first and not self.plan.together:
            kept.write_text(json.dumps(info))
        problems = problems + validity.pool_problems(arm.name, arms[arm.name], self.plan.cells)
        if not problems and arms[arm.name].limits is None:
            problems = self._fits(arm, limits.ask(servers[arm].url, info))
        if self.urls is not None:  # neither is known of a server that was found running
            arms[arm.name] = replace(arms[arm.name], starts_s=(), retractions=None)
        if problems:
            self._refuse(problems)
            raise Invalid

    def _fits(self, arm: Arm, known: limits.Limits) -> list[str]:
        """Why the arm's server would refuse a cell; that requests of one wait is told."""
        self.record.arms[arm.name] = replace(self.record.arms[arm.name], limits=known)
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

    def _scores(self, arm: Arm) -> None:
        """Whether stock DSA will score in pieces; a server decides that when the first long prompt comes."""
        info, env = self._infos[arm.name], self.make_env(arm.setting)
        memory = scoring.gpu_memory(info, env)
        if memory is not None and self.urls is not None:  # it decided long ago, by what was free then
            memory = replace(memory, free=None)
        alone = not self.plan.together or self.urls is not None
        found = scoring.of_arm(arm, self.plan.cells, info, memory, env, alone=alone)
        was = self.record.arms[arm.name].scoring
        if found is not None and (was is None or found.pieces > was.pieces):
            self.record.arms[arm.name] = replace(self.record.arms[arm.name], scoring=found)
            if said := scoring.note(arm.name, found, together=self.plan.together):
                self.tell(said)

    def _served(self, arm: Arm, server: ServerProcess, retracted: int | None) -> None:
        """Keep what the rows so far looked at, as the schedulers' receipts have it."""
        rows = tuple(pruning.of_receipts(server.receipts()) or ()) or None
        self.record.arms[arm.name] = replace(self.record.arms[arm.name], rows=rows, retractions=retracted)

    def _compare(self, arm: Arm, server: ServerProcess) -> None:
        """Ask the prompts of an arm, once, and compare with the baseline, which is always asked first."""
        if not self.prompts or arm in self._compared:
            return
        self._compared.add(arm)
        shape = quality.model_shape(self.model)
        with_choices = "--enable-return-indexer-topk" in self.flags
        baseline = arm == self.plan.arms[0]
        for number, prompt in enumerate(self.prompts):
            self.tell(f"{arm.name}: answers, prompt {number + 1} of {len(self.prompts)}")
            try:
                if baseline:
                    self._asked[number] = quality.ask(server, prompt, shape, with_choices)
                elif number not in self._asked:
                    continue  # the baseline gave no answer, and that is in the record
                other = quality.ask(server, prompt, shape, with_choices)
                found = quality.compare(self._asked[number], other, arm.name, number)
            except (OSError, HTTPException, ValueError) as error:
                if ends.exit_code(server) is not None:
                    raise failed(arm, server, self.record.arms, error) from error
                problem = f"arm {arm.name}, prompt {number + 1}: {error}"
                known = self.record.quality_problems
                self.record = replace(self.record, quality_problems=(*known, problem))
                continue
            self.record = replace(self.record, quality=(*self.record.quality, found))
            self.save(self.record)

    def _measure(
        self, loads: Loads, arm: Arm, server: ServerProcess, index: int, number: int, warmup: bool
    ) -> None:
        cell, begin = self.plan.cells[number], time.monotonic()
        try:
            found = loads.measure(arm, server, index, number, warmup)
            if server.exit_code() is not None:
                raise ServerFailed("ended in the middle of a measurement")
        except (ServerFailed, ClientFailed) as error:
            raise failed(arm, server, self.record.arms, error) from error
        self.record = replace(self.record, measurements=(*self.record.measurements, found))
        self.save(self.record)
        load = f"{cell.input_tokens} tokens x {cell.concurrency}"
        # Requests that share a prefix were held back until all were there.
        alone = found.ttft_s and not cell.prefix_tokens
        ttft = f", TTFT {median(found.ttft_s):.3f} s" if alone else ""
        decode = f", ITL {found.steady.itl_p50 * 1e3:.2f} ms" if found.steady else ""
        self._took.setdefault((arm.name, number), []).append(time.monotonic() - begin)
        said = f"round {index + 1}/{self.plan.rounds} {arm.name}: {load}{ttft}{decode}"
        left = estimate.remaining(self._took, self._todo())
        self.tell(said if left is None else f"{said}; about {estimate.words(left)} left")
        without = validity.recomputed(self.flags)
        if validity.old_prompts(found, cell) or validity.prefix_problems(found, cell, without):
            raise Invalid  # the reason is among those of the record

    def _todo(self) -> list[tuple[str, int]]:
        """Arm and cell of every measurement that is still to do."""
        done = {(one.round, one.cell, one.arm) for one in self.record.measurements}
        return [(arm, number) for index, number, arm in self._left if (index, number, arm) not in done]
