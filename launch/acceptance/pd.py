"""A prefill and a decode server, with HISA on both or on either, compared with a single server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sglang_hisa.launch.acceptance import rounding
from sglang_hisa.launch.acceptance.case_run import Machine, row_of
from sglang_hisa.launch.acceptance.cases import Case, tp
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
MODES = ("prefill", "decode")
_TOKENS = 24

Ask = Callable[..., Mapping[str, Any]]
"""Asked for a prompt's token ids, the length of the answer, and fields of the request."""
Answers = dict[bool, list[Mapping[str, Any]]]


def case(ranks: int) -> Case:
    """A server of so many GPUs, one of two."""
    return Case("disaggregated prefill", tp(ranks), gpus=ranks)


@dataclass
class Place:
    """Where servers run.

    Args:
        stack: they stop when it ends.
        model: its folder.
        case: what each serves; it has GPUs of its own.
        env: more of the environment of a server, by ``prefill`` and ``decode``.
    """

    stack: ExitStack
    machine: Machine
    model: Path
    case: Case
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def start(self, name: str, hisa: bool, side: int, *flags: str, **env: str) -> ServerProcess:
        """A server on the first (0) or the second (1) half of the GPUs; not ready yet."""
        given = self.machine.flags(self.case, self.model)
        if not self.machine.cpu:
            given += ["--base-gpu-id", str(side * self.case.gpus)]
        env = {**self.machine.server_env(self.case, hisa), **env}
        log = self.machine.logs / f"acceptance-{name}.log"
        return self.stack.enter_context(ServerProcess([*given, *flags], env=env, log=log))

    def pair(
        self, backend: str, name: str, hisa: tuple[bool, bool]
    ) -> tuple[ServerProcess, ServerProcess, Ask]:
        """Prefill on one half of the GPUs, decode on the other, and how to ask them together.

        ``hisa``: whether each runs it.
        """
        port = free_port()
        common = ["--disaggregation-transfer-backend", backend]
        common += ["--disaggregation-bootstrap-port", str(port), "--num-reserved-decode-tokens", "64"]
        prefill, decode = (
            self.start(
                f"{name}-{mode}", on, side, "--disaggregation-mode", mode, *common, **self.env.get(mode, {})
            )
            for side, (mode, on) in enumerate(zip(MODES, hisa))
        )
        for mode, one, on in zip(MODES, (prefill, decode), hisa):
            self.machine.wait_ready(one, f"{name}: {mode}", self.case, on)
        rooms, pool = itertools.count(1), self.stack.enter_context(ThreadPoolExecutor(16))

        def ask(tokens: Sequence[int], count: int, **fields: Any) -> Mapping[str, Any]:
            room = {"bootstrap_host": "127.0.0.1", "bootstrap_port": port, "bootstrap_room": next(rooms)}
            both = [pool.submit(one.generate, tokens, count, **fields, **room) for one in (prefill, decode)]
            return [side.result() for side in both][1]

        return prefill, decode, ask


def _lengths(machine: Machine, of: Case) -> tuple[Sequence[int], Sequence[int]]:
    """Prompts within the budget and beyond it."""
    sizes = machine.sizes(of)
    return sizes.short, [sizes.longest - 64 * i - i for i in range(4)]


def _alone(machine: Machine, of: Case) -> Answers:
    """Answers of a stock (False) and a HISA server to all prompts, one at a time, with log-probs: the servers
    are gone when a pair is there to compare. No prefill graph of this case is lost by them."""
    within, beyond = _lengths(machine, of)
    answers: Answers = {}
    with ExitStack() as stack:
        place = Place(stack, machine, machine.models / "pd", of)
        started = {hisa: place.start(f"pd-alone-{ARM[hisa]}", hisa, int(hisa)) for hisa in (False, True)}
        for hisa, one in started.items():
            machine.wait_ready(one, f"alone: {ARM[hisa]}", of, hisa)
            answers[hisa] = [
                one.generate(prompt(n, n), _TOKENS, **rounding.LOGPROBS) for n in (*within, *beyond)
            ]
    return answers


def _combination(
    machine: Machine,
    of: Case,
    backend: str,
    name: str,
    alone_later: Future[Answers],
    facts: Facts,
    problems: list[str],
) -> None:
    """Compare one of ``SIDES`` with the answers of a single server."""
    alone = alone_later.result()
    within, beyond = _lengths(machine, of)
    with ExitStack() as stack:
        place = Place(stack, machine, machine.models / "pd", of)
        prefill, decode, both = place.pair(backend, name, SIDES[name])

        def ask(length: int) -> Mapping[str, Any]:
            return both(prompt(length, length), _TOKENS, **rounding.LOGPROBS)

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
        for role, one, hisa in zip(MODES, (prefill, decode), SIDES[name]):
            if hisa:
                kept, wrong = checked_receipt(receipts.typed(one.receipts())[0])
                setattr(facts, role, kept)
                problems += [f"{role}: {why}" for why in wrong]


def run_pd(
    machine: Machine, backend: str, gpus: int, names: Sequence[str], save: Callable[[CaseRow], None]
) -> None:
    """Run ``names`` of ``SIDES``, half of the GPUs for each server, on GPUs all pairs at once; each row is
    saved as soon as it is complete."""
    of = case(gpus // 2)
    machine.write_model(of, machine.models / "pd")
    with ThreadPoolExecutor(1 if machine.cpu else 1 + len(SIDES)) as pool:
        alone = pool.submit(_alone, machine, of)
        rows = []
        for name in names:
            prefill, decode = SIDES[name]
            shows = f"prefill {ARM[prefill]}, decode {ARM[decode]}, {backend}"
            probe = partial(_combination, machine, of, backend, name, alone)
            rows.append(pool.submit(row_of, name, Case(shows, of.flags), machine, probe))
        for row in as_completed(rows):
            save(row.result())
