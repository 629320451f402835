"""Tensor parallel ranks: all choose the same tokens, and ranks that differ stop with one message.

A test plugin (``tests/plugins/ranks`` of a checkout) logs a digest of what each call chose. It cannot do so
inside a CUDA graph, so decode runs without graphs here.
"""

from __future__ import annotations

import json
from functools import partial
from itertools import zip_longest
from pathlib import Path

from sglang_hisa.launch.acceptance.case_run import Machine, row_of
from sglang_hisa.launch.acceptance.cases import Case, tp
from sglang_hisa.launch.acceptance.probes import checked_receipt
from sglang_hisa.launch.acceptance.record import CaseRow, Facts
from sglang_hisa.launch.common import receipts
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess, with_plugin
from sglang_hisa.launch.common.serving import prompt


def case(gpus: int) -> Case:
    """A server of so many ranks."""
    return Case("ranks", (*tp(gpus), "--cuda-graph-backend-decode", "disabled"), gpus=gpus)


REFUSAL = "refusing to start: the ranks of this server do not run the same HISA"


def _server(name: str, machine: Machine, plugin: Path, of: Case, **more: str) -> tuple[ServerProcess, Path]:
    """A HISA server with the plugin, and the folder that takes the digests."""
    told = machine.models / f"{name}-told"
    told.mkdir(exist_ok=True)
    env = {**with_plugin(machine.server_env(of, True), plugin), "RANKS": str(told), **more}
    flags = machine.flags(of, machine.write_model(of, machine.models / "ranks"))
    return ServerProcess(flags, env=env, log=machine.logs / f"acceptance-{name}-hisa.log"), told


def _same(machine: Machine, plugin: Path, of: Case, facts: Facts, problems: list[str]) -> None:
    sizes = machine.sizes(of)
    server, told = _server("ranks-same", machine, plugin, of)
    with server:
        machine.wait_ready(server, "ranks-same", of, True)
        for length in (*sizes.short, sizes.longest, sizes.longest - 65):
            server.generate(prompt(length, length), 16)
        facts.receipt, wrong = checked_receipt(receipts.typed(server.receipts())[0])
        problems += wrong
    seen = [json.loads((told / f"{rank}.json").read_text())["digests"] for rank in range(of.gpus)]
    differ = sum(len(set(call)) > 1 for call in zip_longest(*seen))
    facts.calls, facts.calls_that_differ = len(seen[0]), differ
    if differ:
        problems.append(f"the ranks chose differently in {differ} of {max(map(len, seen))} calls")
    if not seen[0]:
        problems.append("the indexer was not called")


def _differ(machine: Machine, plugin: Path, of: Case, facts: Facts, problems: list[str]) -> None:
    server, _ = _server("ranks-differ", machine, plugin, of, RANKS_DIFFER="1")
    try:
        with server:
            facts.ready_s = machine.wait_ready(server, "ranks-differ", of, True)
            problems.append("a server whose ranks differ started")
    except ServerFailed:
        log = server.log.read_text(errors="replace")
        at = log.find(REFUSAL)
        facts.message = log[at : at + 300] if at >= 0 else None
        if at < 0:
            problems.append(f"its log does not say: {REFUSAL}")


RANKS = {
    "ranks-same": ("all ranks choose the same tokens", _same),
    "ranks-differ": ("ranks that differ stop before weights are loaded", _differ),
}


def run_rank(name: str, machine: Machine, plugin: Path, gpus: int) -> CaseRow:
    """Run one of ``RANKS`` on so many GPUs; returns its row."""
    of, (shows, probe) = case(gpus), RANKS[name]
    return row_of(name, Case(shows, of.flags), machine, partial(probe, machine, plugin, of))
