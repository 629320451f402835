"""Play scenes on a server until their time is over; a row a scene, written after every round."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from sglang_hisa.launch.ab.runner import retractions
from sglang_hisa.launch.ab.validity import require_arm
from sglang_hisa.launch.acceptance.stress.scenes import SCENES, Load
from sglang_hisa.launch.common.provenance import provenance
from sglang_hisa.launch.common.rows import RowRecord
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess

Told = Callable[[str], None]


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
    record: RowRecord
    tell: Told
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
        bad = [r for r in self.record.rows() if r["violations"] or r["crashes"] or r["problems"]]
        return int(bool(bad))

    def _serve(self, arm: str, setting: str | None, env: Mapping[str, str], names: list[str]) -> None:
        """One server plays ``names``. One that dies is told of in its row; the next scene has a new one."""
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
        """Rounds of one scene; whether the server is still there."""
        row: dict[str, Any] = {
            **{"id": uuid.uuid4().hex[:8], "test": name, "arm": arm, "model": self.model},
            **{"minutes": 0.0, "rounds": 0, "requests": 0},
            **{"canary_pages_checked": 0, "violations": 0, "pages_rebuilt": 0},
            **{"retractions": 0, "crashes": 0},
            **{"problems": [], "facts": {}, "means": {}, "provenance": provenance()},
        }
        before, retracted = _canary(server), retractions(server.log)
        source, begin, told = random.Random(row["id"]), time.monotonic(), 0.0
        while True:
            try:
                found = SCENES[name].play(server, self.load, source)
                now = _canary(server)
            except (OSError, ServerFailed) as error:
                row["crashes"] += not isinstance(error, HTTPError)  # who refuses a request is alive
                row["problems"].append(f"{type(error).__name__}: {error}; exit code {server.exit_code()}")
                self.tell(f"{arm}, {name}: {row['problems'][-1]}\n{server.tail(20)}")
                self.record.put(row)
                return False
            row["rounds"] += 1
            row["requests"] += found.requests
            row["problems"] += found.problems
            for fact, value in found.facts.items():
                row["facts"][fact] = max(value, row["facts"].get(fact, value))
                mean = row["means"].get(fact, value)
                row["means"][fact] = mean + (value - mean) / row["rounds"]
            row["minutes"] = round((time.monotonic() - begin) / 60, 2)
            row["canary_pages_checked"] = now["checks"] - before["checks"]
            row["violations"] = now["violations"] - before["violations"]
            row["pages_rebuilt"] = now["rebuilt"] - before["rebuilt"]
            row["retractions"] = retractions(server.log) - retracted
            if now["first"]:
                row["first_violation"] = now["first"]
            self.record.put(row)
            over = time.monotonic() - begin >= self.seconds
            if over or time.monotonic() - told > 10:
                told = time.monotonic()
                self.tell(
                    f"{arm}, {name}: {row['minutes']:.1f} min, {row['requests']} requests, "
                    f"{row['canary_pages_checked']} summaries checked, {row['violations']} wrong"
                )
            if over:
                return True


def _canary(server: ServerProcess) -> dict[str, Any]:
    """The canary's counts, and pages that movers (HiCache) brought; zeros of stock DSA, which has none."""
    receipt = server.receipts()[0]
    if receipt is None:
        return {"checks": 0, "violations": 0, "first": None, "rebuilt": 0}
    return {**receipt["canary"], "rebuilt": sum(receipt["summary_rebuilds"].values())}
