"""Run one case: serve it with stock DSA and HISA side by side, run its probes, and return its row."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sglang_hisa.launch.ab.plan import SHARED_GPU
from sglang_hisa.launch.ab.validity import require_arm
from sglang_hisa.launch.acceptance.cases import ADAPTER, PREFILL_GRAPH, Case
from sglang_hisa.launch.acceptance.probes import ALWAYS, PROBES, Pair, Sizes
from sglang_hisa.launch.acceptance.record import CaseRow, Facts
from sglang_hisa.launch.common import adapters, models, server
from sglang_hisa.launch.common.progress import ProgressCallback
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.common.server import ServerProcess
from sglang_hisa.launch.common.serving import gpu_flags

GPU = Sizes(budget=4096, short=(1, 65, 1000, 3967), longest=12000, at_once=8)
GPU_ENV = {
    "SGLANG_DSA_PREFILL_DENSE_ATTN_KV_LEN_THRESHOLD": "0",
    "SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": "0",  # the other server loads at the same time
}
CPU = Sizes(budget=256, short=(1, 65, 190), longest=700, at_once=3)

Probe = Callable[[Facts, list[str]], None]
"""Adds to the facts and problems of a row."""


@dataclass
class Machine:
    """Where cases run: environment, folders of the logs and the models, how long a server may start, and what
    else is in the environment of servers on GPUs."""

    cpu: bool
    env: Mapping[str, str]
    logs: Path
    models: Path
    tell: ProgressCallback
    timeout: float = 400
    gpu_env: Mapping[str, str] = field(default_factory=lambda: GPU_ENV)

    @property
    def usual(self) -> Sizes:
        return CPU if self.cpu else GPU

    def sizes(self, case: Case) -> Sizes:
        return replace(self.usual, longer=case.context or self.usual.longest)

    def setting(self, case: Case) -> str:
        """``SGLANG_HISA`` with a budget that prunes the probes' prompts, and with the canary of the case.

        Decode steps of few short rows would be left to stock DSA's graphs: there are none, unless the case
        has them.
        """
        budget = self.usual.budget
        given = {"preset": "paper", "block": 64, "decode_tokens": budget, "prefill_tokens": budget}
        return json.dumps({**given, "canary": case.canary, "stock_decode_graphs": False, **case.hisa})

    def flags(self, case: Case, model: Path) -> list[str]:
        """SGLang's flags of both servers. Their pools are small, so that pages are evicted and used again."""
        sizes = self.sizes(case)
        own = [*case.flags, *(("--lora-paths", f"{ADAPTER}={_adapter(model)}") if case.adapter else ())]
        if self.cpu:
            given = server.cpu_flags(model, pool_tokens=4 * sizes.longest)
            return [*given, "--chunked-prefill-size", "256", *own]
        pool = max(4 * sizes.longest, sizes.longer + 4096)
        given = gpu_flags(model, max(sizes.longest, sizes.longer) + 128, dummy=False)
        given += [*SHARED_GPU, "--max-total-tokens", str(pool)]
        as_flagged = case.default_graphs or PREFILL_GRAPH in case.flags
        graphs = () if as_flagged else (PREFILL_GRAPH, "disabled")
        return [*given, *graphs, *own]

    def write_model(self, case: Case, out: Path) -> Path:
        """Write the model of a case, or on a CPU its tiny form; the adapter, if it has one, beside it.

        Raises:
            ValueError: a CPU has no form of it.
        """
        if not self.cpu:
            model = case.model(out)
        elif case.tiny is None:
            raise ValueError("needs a GPU")
        else:
            model = models.make_tiny(out, **case.tiny)
        if case.adapter:
            adapters.make_gates(_adapter(model), model)
        return model

    def server_env(self, case: Case, hisa: bool) -> dict[str, str]:
        setting = self.setting(case) if hisa else None
        make = server.cpu_env if self.cpu else server.child_env
        given = {} if self.cpu else self.gpu_env
        cores = "|".join("0" * case.gpus)  # of each rank
        ranks = {"SGLANG_CPU_OMP_THREADS_BIND": cores} if self.cpu and case.gpus > 1 else {}
        return {**make(self.env, setting), "HF_HUB_OFFLINE": "1", **given, **ranks, **case.env}

    def wait_ready(self, one: ServerProcess, who: str, case: Case, hisa: bool) -> float:
        """Wait for a server and report its progress; returns the seconds that it took to start.

        Raises:
            ServerFailed: it did not, or it does not serve HISA, or stock, as it should.
        """
        ready = one.wait_ready(
            self.timeout, lambda seconds, line: self.tell(f"{who} {seconds:.0f} s {line[:120]}"), every=15
        )
        self.tell(f"{who} ready after {ready:.0f} s")
        require_arm("hisa" if hisa else "stock", self.setting(case) if hisa else None, one)
        return ready


def _adapter(model: Path) -> Path:
    """Where the adapter of a model lies."""
    return model.with_name(f"{model.name}-{ADAPTER}")


class CutOff(KeyboardInterrupt):
    """The case that ran was interrupted; its row says how far it came."""

    def __init__(self, row: CaseRow) -> None:
        super().__init__(row.case)
        self.row = row


def row_of(name: str, case: Case, machine: Machine, probe: Probe) -> CaseRow:
    """Run ``probe`` and return the row of the case; with the ends of the logs if it raised.

    Raises:
        CutOff: by a signal; it has the row.
    """
    facts, tails = Facts(), None
    problems: list[str] = []
    cut: KeyboardInterrupt | None = None
    begin = time.monotonic()
    try:
        probe(facts, problems)
    except (Exception, KeyboardInterrupt) as error:  # of any kind: the other cases must still run
        if isinstance(error, KeyboardInterrupt):
            cut = error
            problems.append(f"cut off after {time.monotonic() - begin:.0f} s")
        else:
            problems.append(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
        logs = sorted(machine.logs.glob(f"acceptance-{name}-*.log"))
        tails = {log.stem: tuple(log.read_text(errors="replace").splitlines()[-25:]) for log in logs}
    row = CaseRow(
        case=name,
        shows=case.shows,
        flags=case.flags,
        env=dict(case.env),
        facts=facts,
        problems=tuple(problems),
        log_tails=tails,
        seconds=round(time.monotonic() - begin),
        provenance=Provenance(**provenance()),
    )
    if cut is not None:
        raise CutOff(row) from cut
    return row


def run_case(name: str, case: Case, machine: Machine) -> CaseRow:
    """Run every probe of the case on stock DSA and HISA side by side; see :func:`row_of`."""
    return row_of(name, case, machine, partial(_side_by_side, name, case, machine))


def _side_by_side(name: str, case: Case, machine: Machine, facts: Facts, problems: list[str]) -> None:
    model = machine.write_model(case, machine.models / name)
    facts.model = models.described(model)
    flags = machine.flags(case, model)
    stock, hisa = (
        ServerProcess(
            flags,
            env=machine.server_env(case, arm == "hisa"),
            log=machine.logs / f"acceptance-{name}-{arm}.log",
        )
        for arm in ("stock", "hisa")
    )
    pair = Pair(stock, hisa, machine.sizes(case), facts, problems)
    with stock, hisa:
        for arm, one in (("hisa", hisa), ("stock", stock)):  # the one that may refuse is waited for first
            ready = machine.wait_ready(one, f"{name}: {arm}", case, arm == "hisa")
            setattr(facts, f"{arm}_ready_s", round(ready))
        for probe in (p for p in PROBES if p in ALWAYS + case.extra):
            machine.tell(f"{name}: {probe}")
            PROBES[probe](pair)
