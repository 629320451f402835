"""Play each scene for its time; its row is written after every round."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from sglang_hisa.launch.ab.validity import require_arm
from sglang_hisa.launch.acceptance.stress.record import StressRow
from sglang_hisa.launch.acceptance.stress.scenes import SCENES, Load, Round
from sglang_hisa.launch.common import receipts
from sglang_hisa.launch.common.logs import retractions
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.common.rows import RowRecord
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess


@dataclass
class Stress:
    """One run.

    Args:
        flags: SGLang's flags.
        make_env: environment of a server whose ``SGLANG_HISA`` is given.
        arms: name -> ``SGLANG_HISA``, None for stock.
        model: what is served, for the rows.
        record: rows are added to it.
    """

    flags: Sequence[str]
    make_env: Callable[[str | None], Mapping[str, str]]
    arms: Mapping[str, str | None]
    load: Load
    seconds: float
    logs: Path
    model: str
    record: RowRecord[StressRow]
    tell: ProgressCallback
    start_timeout: float = 600
    _starts: int = field(default=0, init=False)

    def play(self, names: Sequence[str]) -> int:
        """Every scene on every arm, for ``seconds`` each; 1 where anything was wrong, else 0.

        Raises:
            ServerFailed: a server did not start, or does not serve its arm.
        """
        for arm, setting in self.arms.items():
            left = list(names)
            while left:
                env = SCENES[left[0]].env
                together = [name for name in left if SCENES[name].env == env]
                left = [name for name in left if name not in together]
                self._serve(arm, setting, env, together)
        return int(not all(row.is_right for row in self.record.rows()))

    def _serve(self, arm: str, setting: str | None, env: Mapping[str, str], names: list[str]) -> None:
        """Play ``names`` on one server. If it dies, the row says so and the next scene gets a new server."""
        while names:
            self._starts += 1
            log = self.logs / f"stress-{os.getpid()}-{arm}-{self._starts}.log"
            server = ServerProcess(self.flags, env={**self.make_env(setting), **env}, log=log)
            with server:
                self.tell(f"{arm}: starting (log: {log})")
                server.wait_ready(self.start_timeout)
                require_arm(arm, setting, server)
                while names:
                    name = names.pop(0)
                    if not self._scene(arm, name, server):
                        break

    def _scene(self, arm: str, name: str, server: ServerProcess) -> bool:
        """Play rounds of one scene; returns whether the server is still alive."""
        row = StressRow(
            id=uuid.uuid4().hex[:8],
            test=name,
            arm=arm,
            model=self.model,
            means={},
            provenance=Provenance(**provenance()),
        )
        before, retracted = _canary(server), retractions(server.log)
        source, begin, told = random.Random(row.id), time.monotonic(), 0.0
        while True:
            try:
                found = SCENES[name].play(server, self.load, source)
                now = _canary(server)
            except (OSError, ServerFailed) as error:
                said = f"{type(error).__name__}: {error}; exit code {server.exit_code()}"
                crashed = not isinstance(error, HTTPError)  # a server that refuses a request is alive
                self.tell(f"{arm}, {name}: {said}\n{server.tail(20)}")
                self.record.put(replace(row, crashes=row.crashes + crashed, problems=(*row.problems, said)))
                return False
            row = replace(
                _with_round(row, found),
                minutes=round((time.monotonic() - begin) / 60, 2),
                canary_pages_checked=now.checks - before.checks,
                violations=now.violations - before.violations,
                pages_rebuilt=now.rebuilt - before.rebuilt,
                retractions=retractions(server.log) - retracted,
                first_violation=now.first or row.first_violation,
            )
            self.record.put(row)
            over = time.monotonic() - begin >= self.seconds
            if over or time.monotonic() - told > 10:
                told = time.monotonic()
                self.tell(
                    f"{arm}, {name}: {row.minutes:.1f} min, {row.requests} requests, "
                    f"{row.canary_pages_checked} summaries checked, {row.violations} wrong"
                )
            if over:
                return True


def _with_round(row: StressRow, found: Round) -> StressRow:
    """``row`` with one more round: its requests and problems, the largest and the mean of its facts."""
    rounds = row.rounds + 1
    largest, means = dict(row.facts), dict(row.means or {})
    for name, value in found.facts.items():
        largest[name] = max(value, largest.get(name, value))
        mean = means.get(name, value)
        means[name] = mean + (value - mean) / rounds
    problems = (*row.problems, *found.problems)
    requests = row.requests + found.requests
    return replace(row, rounds=rounds, requests=requests, problems=problems, facts=largest, means=means)


@dataclass(frozen=True)
class _Counts:
    """The canary's counts, and pages that movers (HiCache) brought; zeros of stock DSA, which has none."""

    checks: int = 0
    violations: int = 0
    first: Any = None
    rebuilt: int = 0


def _canary(server: ServerProcess) -> _Counts:
    receipt = receipts.typed(server.receipts())[0]
    if receipt is None:
        return _Counts()
    canary, rebuilt = receipt.canary, sum(receipt.summary_rebuilds.values())
    return _Counts(canary.checks, canary.violations, canary.first, rebuilt)
