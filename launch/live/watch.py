"""Run a live comparison: start, route, watch, drain; what was seen is kept whatever happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from http.client import HTTPException
from pathlib import Path

from sglang_hisa.launch.ab.plan import SHARED_GPU
from sglang_hisa.launch.ab.runner import Invalid
from sglang_hisa.launch.ab.start import started
from sglang_hisa.launch.common import auth
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.ends import how
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.common.receipts import Said
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess, check_free, fetch
from sglang_hisa.launch.live import formatting, report
from sglang_hisa.launch.live.metrics import Reading, parse, window
from sglang_hisa.launch.live.record import Died, Line, LiveFacts, LivePlan, LiveRecord, Window, Windows
from sglang_hisa.launch.live.router import Router
from sglang_hisa.launch.live.split import worker_urls
from sglang_hisa.launch.live.stop import Stop

Shown = Callable[[float, str, Windows, Windows], None]
"""Takes the seconds so far, how traffic is split, the last window of each arm and all that it did so far."""


_PATIENCE = 60.0
"""Timeout in seconds of the first and the last reading of the metrics, which cannot be repeated."""


def read(server: ServerProcess, timeout: float = 5) -> Reading | None:
    """The server's metrics now; None where it gives no answer."""
    try:
        return parse(fetch(f"{server.url}/metrics", timeout=timeout), time.monotonic())
    except (OSError, HTTPException, ValueError):
        return None


@dataclass
class Runner:
    """One live comparison of two arms.

    Args:
        arms: the baseline and the arm that gets ``share`` of the requests.
        gpus: ``CUDA_VISIBLE_DEVICES`` of each arm; None: they share what there is.
        place: how they share the machine, in words.
        flags: SGLang's flags of both arms, model included.
        make_env: ``SGLANG_HISA`` of an arm (None: stock) -> environment of its server.
        host, port: where the router listens.
        every: seconds of a window.
        drain_s: seconds that accepted requests get at the end.
        folder: takes logs, windows and the record.
    """

    arms: tuple[Arm, Arm]
    share: Fraction
    gpus: Sequence[str] | None
    place: str
    model: str
    flags: list[str]
    make_env: Callable[[str | None], Mapping[str, str]]
    host: str
    port: int
    every: float
    drain_s: float
    folder: Path
    tell: ProgressCallback
    show: Shown
    timeout: float = 1800
    record: LiveRecord = field(init=False)

    def __post_init__(self) -> None:
        self._first: dict[Arm, Reading] = {}
        self._last: dict[Arm, Reading] = {}
        self._begin = 0.0
        self.record = LiveRecord(
            complete=False,
            refusals=(),
            provenance=Provenance(**provenance()),
            model=self.model,
            flags=tuple(auth.redacted(self.flags)),
            plan=LivePlan(
                arms=(self.arms[0].name, self.arms[1].name),
                baseline=self.arms[0].name,
                slots=self.share.as_integer_ratio(),
                place=self.place,
            ),
            arms={arm.name: LiveFacts(setting=arm.setting, retractions=0) for arm in self.arms},
        )

    def run(self) -> int:
        """Serve until a signal; the exit code: 0, 1 an arm died or requests were cut off, 2 refused, 130."""
        code = 0
        try:
            check_free(self.port)  # not minutes later, when the models are loaded
            with Stop() as stop, ExitStack() as stack:
                servers = self._start(stack)
                router = self._route(stack, servers)
                stop.gentle = True
                self._watch(stop, servers, router)
                self._drain(stop, servers, router)
                self.record = replace(self.record, complete=True)
        except KeyboardInterrupt:
            self.record, code = replace(self.record, stopped_by="interrupt"), 130
        except Invalid:
            self.record, code = replace(self.record, stopped_by="refused"), 2
        except (ServerFailed, OSError) as error:
            self.record, code = replace(self.record, stopped_by=str(error).splitlines()[0]), 1
            self.tell(str(error))
        self.record.save(self.folder)
        failed = self.record.cut or any(arm.died for arm in self.record.arms.values())
        return code or int(bool(failed))

    def _server(self, arm: Arm) -> ServerProcess:
        env, flags = dict(self.make_env(arm.setting)), self.flags
        if self.gpus:
            env["CUDA_VISIBLE_DEVICES"] = self.gpus[self.arms.index(arm)]
        else:
            flags = [*flags, *SHARED_GPU]
        return ServerProcess(flags, env=env, log=self.folder / f"server-{arm.name}.log")

    def _start(self, stack: ExitStack) -> dict[Arm, ServerProcess]:
        servers = {arm: stack.enter_context(self._server(arm)) for arm in self.arms}
        baseline: Said | None = None
        for arm in servers:
            info, problems = started(arm, servers, self.record.arms, baseline, self.timeout, self.tell)
            baseline = baseline or info
            self.record = replace(self.record, refusals=(*self.record.refusals, *problems))
        if self.record.refusals:
            raise Invalid
        return servers

    def _route(self, stack: ExitStack, servers: Mapping[Arm, ServerProcess]) -> Router:
        """The router, which stops before the servers do; its traffic is counted from here."""
        first, second = (servers[arm].url for arm in self.arms)
        router = stack.enter_context(
            Router(
                worker_urls(self.share, first, second),
                env=self.make_env(None),
                log=self.folder / "router.log",
                host=self.host,
                port=self.port,
                drain_s=self.drain_s,
                key=auth.from_flags(self.flags) or "",
            )
        )
        router.wait_routing(progress=lambda s, _: self.tell(f"router: {s:.0f} s"))
        for arm, server in servers.items():
            reading = read(server, _PATIENCE)
            if reading is None:
                raise ServerFailed(f"arm {arm.name}: no metrics at {server.url}/metrics")
            self._first[arm] = self._last[arm] = reading
        self._begin = time.monotonic()
        split = formatting.split(self.record)
        self.tell(f"serving at http://{self.host}:{self.port}: {split}; Ctrl-C drains and stops")
        return router

    def _alive(self, servers: Mapping[Arm, ServerProcess]) -> list[Arm]:
        """The arms whose servers are running; a death is reported once, with the end of the log."""
        alive = []
        for arm, server in servers.items():
            facts = self.record.arms[arm.name]
            code = server.exit_code()
            if code is None:
                alive.append(arm)
            elif facts.died is None:
                died = Died(code, round(time.monotonic() - self._begin, 1), self._busy([arm]))
                tail = server.tail()
                self.record.arms[arm.name] = replace(facts, died=died, log_tail=tail)
                self.tell(f"arm {arm.name} DIED ({how(code, tail)}); end of {server.log}:\n{tail}")
        return alive

    def _busy(self, arms: Sequence[Arm]) -> str:
        running, queued = (
            sum(int(self._last[arm].value(f"sglang:num_{kind}_reqs")) for arm in arms)
            for kind in ("running", "queue")
        )
        return f"{running} running, {queued} queued"

    def _look(self, servers: Mapping[Arm, ServerProcess], timeout: float = 5) -> Windows:
        """Read every arm that runs: its window since the reading before; the record gets its totals."""
        arms = self.record.arms
        windows: dict[str, Window | None] = dict.fromkeys(arms)
        for arm in self._alive(servers):
            if (reading := read(servers[arm], timeout)) is not None:
                windows[arm.name] = window(self._last[arm], reading)
                self._last[arm] = reading
                arms[arm.name] = replace(arms[arm.name], totals=window(self._first[arm], reading))
        seconds = round(time.monotonic() - self._begin, 1)
        self.record = replace(self.record, seconds=seconds)
        report.append(Line(seconds, windows), self.folder)
        self.record.save(self.folder)
        return windows

    def _watch(self, stop: Stop, servers: Mapping[Arm, ServerProcess], router: Router) -> None:
        due = time.monotonic() + self.every
        while not stop.asked:
            if not self._alive(servers):
                raise ServerFailed("no arm is left")
            if (code := router.exit_code()) is not None:
                raise ServerFailed(f"the router ended with code {code}\n{router.tail()}")
            if time.monotonic() >= due:
                due += self.every
                windows = self._look(servers)
                seconds, split = self.record.seconds or 0.0, formatting.split(self.record)
                self.show(seconds, split, windows, self.record.totals)
            time.sleep(0.1)

    def _drain(self, stop: Stop, servers: Mapping[Arm, ServerProcess], router: Router) -> None:
        """The router leaves its port and waits for what it has accepted; the servers run meanwhile."""
        self.record = replace(self.record, stopped_by=stop.asked)
        self.tell(f"{stop.asked}: no new requests; waiting at most {self.drain_s:.0f} s for those under way")

        def progress(seconds: float) -> None:
            self._look(servers)
            self.tell(f"draining, {seconds:.0f} s: {self._busy(self._alive(servers) or self.arms)}")

        if not router.drain(progress):
            self.record = replace(self.record, cut=self._busy(self._alive(servers) or self.arms))
        self._look(servers, _PATIENCE)
        for arm in self._alive(servers):
            receipt = servers[arm].receipts()[0]  # with what it counted
            self.record.arms[arm.name] = replace(self.record.arms[arm.name], receipt=receipt)
