"""A prefill and a decode server, with HISA on both or on either, compared with a single server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from functools import partial
from typing import Any

from sglang_hisa.launch.acceptance import rounding
from sglang_hisa.launch.acceptance.case_run import Machine, row_of
from sglang_hisa.launch.acceptance.cases import Case
from sglang_hisa.launch.acceptance.probes import checked_receipt
from sglang_hisa.launch.acceptance.record import CaseRow, Facts
from sglang_hisa.launch.common import receipts
from sglang_hisa.launch.common.server import ServerProcess, free_port
from sglang_hisa.launch.common.serving import prompt

SIDES = {
    "pd-stock": (False, False),
    "pd-both": (True, True),
    "pd-decode": (False, True),
    "pd-prefill": (True, False),
}
"""Whether the prefill and the decode server run HISA. Without HISA it is the control: rounding alone can make
the pair answer a long prompt in other words than one server does."""
ARM = {False: "stock", True: "hisa"}
CASE = Case("disaggregated prefill")
_TOKENS = 24

Ask = Callable[[int], Mapping[str, Any]]
Answers = dict[bool, list[Mapping[str, Any]]]


def _start(stack: ExitStack, machine: Machine, name: str, hisa: bool, gpu: int, *flags: str) -> ServerProcess:
    """A server on one GPU, until ``stack`` ends; not ready yet."""
    given = machine.flags(CASE, machine.models / "pd")
    if not machine.cpu:
        given += ["--base-gpu-id", str(gpu)]
    env, log = machine.server_env(CASE, hisa), machine.logs / f"acceptance-{name}.log"
    return stack.enter_context(ServerProcess([*given, *flags], env=env, log=log))


def _pair(
    stack: ExitStack, machine: Machine, backend: str, name: str
) -> tuple[ServerProcess, ServerProcess, Ask]:
    """Prefill on GPU 0, decode on GPU 1, and how to ask them together for a prompt of some length."""
    port = free_port()
    common = ["--disaggregation-transfer-backend", backend]
    common += ["--disaggregation-bootstrap-port", str(port), "--num-reserved-decode-tokens", "64"]
    pair = []
    for gpu, (mode, hisa) in enumerate(zip(("prefill", "decode"), SIDES[name])):
        flags = ("--disaggregation-mode", mode, *common)
        pair.append(_start(stack, machine, f"{name}-{mode}", hisa, gpu, *flags))
    prefill, decode = pair
    for mode, one, hisa in zip(("prefill", "decode"), pair, SIDES[name]):
        machine.wait_ready(one, f"{name}: {mode}", CASE, hisa)
    rooms, pool = itertools.count(1), stack.enter_context(ThreadPoolExecutor(16))

    def ask(length: int) -> Mapping[str, Any]:
        room = {"bootstrap_host": "127.0.0.1", "bootstrap_port": port, "bootstrap_room": next(rooms)}
        fields = {**rounding.LOGPROBS, **room}
        sides = [pool.submit(one.generate, prompt(length, length), _TOKENS, **fields) for one in pair]
        return [side.result() for side in sides][1]

    return prefill, decode, ask


def _lengths(machine: Machine) -> tuple[Sequence[int], Sequence[int]]:
    """Prompts within the budget and beyond it."""
    sizes = machine.sizes(CASE)
    return sizes.short, [sizes.longest - 64 * i - i for i in range(4)]


def _alone(machine: Machine) -> Answers:
    """Answers of a stock (False) and a HISA server to all prompts, one at a time, with log-probs: the servers
    are gone when a pair is there to compare. No prefill graph of this case is lost by them."""
    within, beyond = _lengths(machine)
    answers: Answers = {}
    with ExitStack() as stack:
        started = {
            hisa: _start(stack, machine, f"pd-alone-{ARM[hisa]}", hisa, gpu=int(hisa))
            for hisa in (False, True)
        }
        for hisa, one in started.items():
            machine.wait_ready(one, f"alone: {ARM[hisa]}", CASE, hisa)
            answers[hisa] = [
                one.generate(prompt(n, n), _TOKENS, **rounding.LOGPROBS) for n in (*within, *beyond)
            ]
    return answers


def _combination(
    machine: Machine,
    backend: str,
    name: str,
    alone_later: Future[Answers],
    facts: Facts,
    problems: list[str],
) -> None:
    """Compare one of ``SIDES`` with the answers of a single server."""
    alone = alone_later.result()
    within, beyond = _lengths(machine)
    with ExitStack() as stack:
        prefill, decode, ask = _pair(stack, machine, backend, name)
        answers = [ask(n) for n in (*within, *beyond)]
        few = len(within)
        stock = alone[False][:few]
        agreement = rounding.compare(
            stock, answers[:few], lambda number, at: rounding.likely(stock[number], at)
        )
        facts.equals_stock_within, facts.gap_nats = agreement.share, agreement.gap_nats
        if agreement.wrong:
            problems.append(f"within the budget not stock's answers: {'; '.join(agreement.wrong)}")
        if len(set(SIDES[name])) == 1:
            facts.equals_alone_beyond = rounding.same_tokens(alone[SIDES[name][0]][few:], answers[few:])
        with ThreadPoolExecutor(4) as several:
            many = list(several.map(ask, [*beyond, *within, *beyond]))
        facts.requests = len(answers) + len(many)
        if any(len(answer["output_ids"]) != _TOKENS for answer in (*answers, *many)):
            problems.append("an answer is not whole")
        for role, one, hisa in zip(("prefill", "decode"), (prefill, decode), SIDES[name]):
            if hisa:
                kept, wrong = checked_receipt(receipts.typed(one.receipts())[0])
                setattr(facts, role, kept)
                problems += [f"{role}: {why}" for why in wrong]


def run_pd(machine: Machine, backend: str, save: Callable[[CaseRow], None]) -> None:
    """Run all of ``SIDES``, on GPUs all at once; each row is saved as soon as it is complete."""
    machine.write_model(CASE, machine.models / "pd")
    with ThreadPoolExecutor(1 if machine.cpu else 1 + len(SIDES)) as pool:
        alone = pool.submit(_alone, machine)
        rows = []
        for name, (prefill, decode) in SIDES.items():
            shows = f"prefill {ARM[prefill]}, decode {ARM[decode]}, {backend}"
            probe = partial(_combination, machine, backend, name, alone)
            rows.append(pool.submit(row_of, name, Case(shows), machine, probe))
        for row in as_completed(rows):
            save(row.result())
