"""Run a demo plan: one server after the other, the same requests, checks, tables."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from sglang_hisa.launch.common import choices, receipts
from sglang_hisa.launch.common.choices import Answer
from sglang_hisa.launch.common.receipts import Receipt
from sglang_hisa.launch.common.server import Progress, ServerFailed, ServerProcess
from sglang_hisa.launch.demo import report
from sglang_hisa.launch.demo.plan import Plan
from sglang_hisa.launch.demo.report import Arm

_TELL_EVERY = 10.0
"""Seconds between progress lines where the output is not a terminal."""


_WITHIN_BUDGET = 0.99
"""Share of stock's tokens that rows within the budget must choose in layer 0. Keys of equal score come out
of top-k in any order, so it is not 1."""


class DemoFailed(RuntimeError):
    """A server runs something other than it should."""


def check_receipts(plan: Plan, hisa: bool, found: list[dict[str, Any] | None]) -> Receipt | None:
    """The receipt of an arm's one scheduler, None for stock.

    Raises:
        DemoFailed: no receipt where HISA must run, one where it must not, or one that says otherwise.
    """
    typed = receipts.typed(found)
    if problem := receipts.problem(typed, hisa):
        arm, why = (
            ("HISA", "it serves stock DSA: run `hisa doctor`")
            if hisa
            else ("stock", "SGLANG_HISA reached it")
        )
        raise DemoFailed(f"the {arm} server: {problem}; {why}")
    if not hisa:
        return None
    (receipt,) = filter(None, typed)
    expected = {"layers": plan.layers, "config": dataclasses.asdict(plan.config)}
    wrong = [
        f"{key} is {getattr(receipt, key)}, expected {value}"
        for key, value in expected.items()
        if getattr(receipt, key) != value
    ]
    if wrong:
        raise DemoFailed("the receipt of the HISA server is wrong: " + "; ".join(wrong))
    return receipt


def _ask(plan: Plan, server: ServerProcess, ids: list[int]) -> Answer:
    begin = time.monotonic()
    try:
        answer = server.generate(ids, return_indexer_topk=True, sampling_params=plan.sampling())
    except OSError as error:
        raise ServerFailed(f"a request failed ({error})\n{server.tail()}") from None
    seconds = time.monotonic() - begin
    meta = answer["meta_info"]
    try:
        chosen = choices.decode(meta, plan.layers, plan.topk)
    except ValueError as error:
        raise DemoFailed(str(error)) from None
    if (chosen.max(axis=2) > np.arange(len(chosen), dtype=np.int32)[:, None]).any():
        raise DemoFailed("a row chose a token after its own: the answer holds KV slots, not positions")
    output = tuple(int(token) for token in answer["output_ids"])
    return Answer(meta["prompt_tokens"], meta["cached_tokens"], output, seconds, chosen)


@contextmanager
def _progress(console: Console, name: str) -> Iterator[Progress]:
    """Report that a server is starting: one live line on a terminal, otherwise a line every few seconds."""
    if console.is_terminal:
        with console.status(f"{name}: starting") as status:
            yield lambda elapsed, line: status.update(
                Text.assemble(f"{name}: starting, {elapsed:.0f} s  ", (line[-80:], "dim"))
            )
        return
    yield lambda elapsed, _: console.print(f"  starting, {elapsed:.0f} s")


def run_arm(plan: Plan, name: str, hisa: bool, model: Path, log: Path, console: Console) -> Arm:
    """Serve one arm, send it all requests, and stop it.

    Raises:
        DemoFailed, ServerFailed: see there; the server is stopped.
    """
    env = plan.env(plan.config.to_json() if hisa else None)
    console.print(f"{name}: starting the server (log: {log})")
    with ServerProcess(plan.flags(model), env=env, log=log) as server:
        with _progress(console, name) as tell:
            ready = server.wait_ready(progress=tell, every=1 if console.is_terminal else _TELL_EVERY)
        check_receipts(plan, hisa, server.receipts())
        answers = []
        for count, request in enumerate(plan.requests, start=1):
            answers.append(_ask(plan, server, request.ids))
            of, seconds = len(plan.requests), answers[-1].seconds
            console.print(f"  request {count} of {of}: {len(request.ids)} tokens, {seconds:.1f} s")
        receipt = check_receipts(plan, hisa, server.receipts())  # again: its counts are complete now
        if receipt is not None and not receipt.hisa_steps:
            raise DemoFailed(f"no step ran HISA; steps left to the stock indexer: {receipt.stock_steps}")
    return Arm(name, receipt, ready, tuple(answers))


def run(plan: Plan, folder: Path) -> int:
    """Run both arms and print the tables; 0, or 1 with the reason on the console."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"hisa demo: {plan.title}")
    logs = {name: folder / f"demo-{name}.log" for name in ("stock", "hisa")}
    name = "stock"
    try:
        model = plan.make_model(folder / "demo-model")
        stock = run_arm(plan, "stock", False, model, logs["stock"], console)
        name = "hisa"
        hisa = run_arm(plan, "HISA", True, model, logs["hisa"], console)
    except (DemoFailed, ServerFailed) as error:
        console.print(f"\nhisa demo failed: {error}\nfull log: {logs[name]}", style="red", markup=False)
        return 1
    bins = report.show(console, plan, stock, hisa)
    apart = [row for row in bins if row.scored == 1.0 and row.first_layer < _WITHIN_BUDGET]
    if apart:
        kept = min(row.first_layer for row in apart)
        console.print(
            f"\nhisa demo failed: within the budget only {kept:.1%} of stock's tokens were chosen; "
            f"at least {_WITHIN_BUDGET:.0%} are expected (all but ties)",
            style="red",
        )
        return 1
    return 0
