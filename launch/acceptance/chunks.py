"""Small chunks of prefill, with SGLang's prefill graphs as they are by default: every row has its own budget.

A test plugin (``tests/plugins/steps`` of a checkout) logs what the rows of each step scored and chose.
With one GPU a server with prefill graphs and an eager one answer the same prompts; with two, the
ranks of DP attention decode and prefill beside each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sglang_hisa import PAGE
from sglang_hisa.launch.acceptance.case_run import Machine, row_of
from sglang_hisa.launch.acceptance.cases import Case, dp
from sglang_hisa.launch.acceptance.probes import keep_receipts
from sglang_hisa.launch.acceptance.record import CaseRow, Facts
from sglang_hisa.launch.common.server import ServerProcess, with_plugin
from sglang_hisa.launch.common.serving import prompt
from sglang_hisa.launch.common.typed import read

EAGER = ("--disable-prefill-cuda-graph",)
SHARE = 0.01
"""Relative difference up to which two candidate shares count as equal."""
SLACK = 0.005
"""Two servers may agree by this much less than one server agrees with itself. Below the first layer even one
server differs between runs: the top-k kernel writes a row's tokens in any order, so attention rounds
differently."""


@dataclass(frozen=True)
class Budgets:
    """Budgets of the shape of ``balanced``, small enough for short prompts."""

    decode: int
    prefill: int
    tail: int
    fraction: float = 1 / 4

    def config(self) -> Mapping[str, Any]:
        return {
            "preset": "balanced",
            "decode_tokens": self.decode,
            "decode_fraction": 0.0,
            "prefill_tokens": self.prefill,
            "prefill_fraction": self.fraction,
            "dense_tail_tokens": self.tail,
        }

    def expected_share(self, lengths: Sequence[int], chunk: int, topk: int) -> float:
        """Candidates of all rows of these prompts over what the rows see, by the rule as it is documented:
        whole pages, the row's own, of which it sees a part, among them. Without the chunks that end within
        ``topk`` tokens, for which SGLang does not call the indexer."""
        looked = seen = 0
        for length in lengths:
            first = max(0, topk // chunk * chunk if length > topk else length)
            for context in range(first + 1, length + 1):
                pages = -(-context // PAGE)
                kept = -(-max(self.prefill, self.fraction * context) // PAGE)
                if context <= length - self.tail and kept < pages:
                    looked += context - (pages - int(kept)) * PAGE
                else:
                    looked += context
                seen += context
        return float(looked / seen)


GPU = Budgets(decode=4096, prefill=4096, tail=1024)
CPU = Budgets(decode=192, prefill=256, tail=101)


@dataclass(frozen=True)
class Call:
    """One call of the indexer, as the plugin logged it."""

    layer: int
    rows: int
    context: int
    """Tokens that all rows see."""
    candidates: int
    """Tokens that all rows score."""
    most: int = 0
    """Tokens that one row scores at most."""
    in_graph: bool = False
    hisa: bool = True
    """False: the call was left to stock DSA."""
    relabelled: Any = None
    """Set where SGLang ran decode rows as an extend."""


@dataclass(frozen=True)
class Calls:
    """The log of one rank: a line and the sampled choices of each call."""

    lines: list[Call]
    choices: list[np.ndarray]

    def share(self) -> float:
        """Candidates of all rows over the tokens that they see."""
        return share_of(self.lines)


def share_of(lines: Sequence[Call]) -> float:
    """Candidates of all rows of these calls over the tokens that the rows see."""
    return sum(one.candidates for one in lines) / sum(one.context for one in lines)


def read_calls(folder: Path, rank: int) -> Calls:
    """The calls of ``rank`` that were logged since the folder was emptied."""
    lines = [read(Call, json.loads(line)) for line in (folder / f"{rank}.jsonl").read_text().splitlines()]
    with (folder / f"{rank}.npy").open("rb") as file:
        return Calls(lines, [np.load(file) for _ in lines])


def common(one: Calls, other: Calls) -> dict[int, float]:
    """Share of the tokens chosen by ``one`` that ``other`` chose too, by layer.

    Raises:
        ValueError: they are not calls of the same rows.
    """
    if [(a.layer, a.rows) for a in one.lines] != [(a.layer, a.rows) for a in other.lines]:
        raise ValueError(f"{len(one.lines)} and {len(other.lines)} calls, not of the same rows")
    kept: dict[int, list[int]] = {}
    for line, left, right in zip(one.lines, one.choices, other.choices):
        total = kept.setdefault(line.layer, [0, 0])
        for a, b in zip(left, right):
            total[0] += len(np.intersect1d(a[a >= 0], b[b >= 0]))
            total[1] += int((a >= 0).sum())
    return {layer: found / count for layer, (found, count) in kept.items()}


def _server(
    stack: ExitStack, machine: Machine, case: Case, plugin: Path, name: str, *flags: str
) -> tuple[ServerProcess, Path]:
    """Start a HISA server with the plugin, until ``stack`` ends; returns it at once, and the log folder."""
    told = machine.models / f"{name}-told"
    told.mkdir(exist_ok=True)
    env = {**with_plugin(machine.server_env(case, True), plugin), "STEPS": str(told)}
    given = machine.flags(case, machine.write_model(case, machine.models / "chunks"))
    server = ServerProcess([*given, *flags], env=env, log=machine.logs / f"acceptance-{name}.log")
    return stack.enter_context(server), told


def _forget(told: Path) -> None:
    """Empty the log folder: what it holds so far is the server's warm-up."""
    for file in told.iterdir():
        file.unlink()


def _case(budgets: Budgets, chunk: int, *flags: str, gpus: int = 1) -> Case:
    given = ("--chunked-prefill-size", str(chunk), *flags)
    return Case("chunks", given, gpus=gpus, hisa=budgets.config(), default_graphs=True)


def _graphs_and_eager(chunk: int, machine: Machine, plugin: Path, facts: Facts, problems: list[str]) -> None:
    """One prompt after the other, each in chunks, on both servers."""
    budgets, longest = (CPU if machine.cpu else GPU), machine.usual.longest
    size = chunk // 8 if machine.cpu else chunk
    lengths = [longest - 7, longest - min(size // 2, longest // 3) - 1]
    lengths.append(min(budgets.prefill + budgets.tail + size // 2 + 3, longest))
    calls: dict[str, Calls] = {}
    topk = 64 if machine.cpu else 2048
    with ExitStack() as stack:
        both = {}
        for name, flags in (("graphs", ()), ("eager", EAGER)):
            case = _case(budgets, size, *flags)
            both[name] = (*_server(stack, machine, case, plugin, f"chunks-{chunk}-{name}"), case)
        for name, (server, told, case) in both.items():
            setattr(facts, f"{name}_ready_s", round(machine.wait_ready(server, name, case, True)))
            for turn in (name, f"{name} again"):
                _forget(told)
                for length in lengths:
                    server.flush_cache()
                    server.generate(prompt(length, length), 4)
                calls[turn] = read_calls(told, 0)
            keep_receipts(server, facts, problems)
    same, itself = (common(calls["eager"], calls[name]) for name in ("graphs", "eager again"))
    shares = {name: calls[name].share() for name in ("graphs", "eager")}
    replayed = sum(one.in_graph for one in calls["graphs"].lines)
    expected = budgets.expected_share(lengths, size, topk)
    facts.prompts, facts.expected_share, facts.shares = tuple(lengths), expected, shares
    facts.calls, facts.calls_in_graphs = len(calls["graphs"].lines), replayed
    facts.same_choices, facts.same_again = same, itself
    for name, share in {**shares, "the rule": expected}.items():
        if abs(share / shares["eager"] - 1) > SHARE:
            problems.append(f"candidate share of {name} is {share:.4f}, eager's {shares['eager']:.4f}")
    if same[0] < 1 or any(share < itself[layer] - SLACK for layer, share in same.items()):
        problems.append(f"the servers chose differently: in common {same}, eager with itself {itself}")
    if not machine.cpu and not replayed:
        problems.append("no call came from a prefill graph")


def decode_problems(facts: Facts, budget: int, shortest: int) -> list[str]:
    """What is wrong with decode rows, of at least ``shortest`` tokens, of a rank whose peer prefills.

    Steps of decode that were counted are those without a graph: those beside a prefill.
    """
    found = []
    assert facts.ranks is not None, "receipts come before this"
    decoder = facts.ranks[0]
    beside = facts.decode_rows_as_extend or decoder.hisa_steps.get("decode", 0)
    if not beside:
        found.append("no decode row came beside a prefill")
    share = decoder.candidate_share["decode"]
    if share is None or share > (budget + PAGE) / shortest:
        found.append(f"decode rows looked at {share} of their context, more than the decode budget")
    if (facts.most_candidates_of_a_decode_row or 0) > budget + PAGE:
        found.append("a decode row beside a prefill has more candidates than the decode budget")
    return found


def _beside_a_peers_prefill(machine: Machine, plugin: Path, facts: Facts, problems: list[str]) -> None:
    """Rank 0 decodes while rank 1 prefills. SGLang runs such a step without its graph or as an extend:
    either way its rows keep the decode budget."""
    budgets = CPU if machine.cpu else GPU
    budgets = replace(budgets, prefill=2 * budgets.prefill)
    chunk, topk = (256, 64) if machine.cpu else (1024, 2048)
    case = _case(budgets, 2 * chunk, *dp(2), gpus=2)  # SGLang divides it by the ranks
    longest = machine.usual.longest
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        server, told = _server(stack, machine, case, plugin, "chunks-dp")
        facts.ready_s = round(machine.wait_ready(server, "chunks-dp", case, True))
        server.flush_cache()
        _forget(told)
        # Its prompt ends where the rule keeps everything: the rows after it are decode rows.
        decoding = pool.submit(server.generate, prompt(longest - 500, 1), 400, routed_dp_rank=0)
        lengths = [longest - 64 * i - 3 for i in range(4)]
        for length in lengths:
            server.generate(prompt(length, length), 1, routed_dp_rank=1)
        decoding.result()
        keep_receipts(server, facts, problems)
    decoder, prefiller = read_calls(told, 0), read_calls(told, 1)
    most = [one for one in decoder.lines if one.rows == 1 and one.context > longest - 500]
    real = [one for one in prefiller.lines if one.relabelled is None and one.rows > 1]
    share = share_of(real)
    expected = budgets.expected_share(lengths, chunk, topk)
    facts.shares, facts.expected_share = {"prefill": share}, expected
    facts.calls, facts.calls_in_graphs = len(real), sum(one.in_graph for one in real)
    facts.decode_rows_as_extend = len(most)
    facts.most_candidates_of_a_decode_row = max((one.most for one in most), default=None)
    problems += decode_problems(facts, budgets.decode, longest - 500)
    if any(not one.hisa for one in most):
        problems.append("a decode row beside a prefill was left to stock DSA")
    if abs(share / expected - 1) > SHARE:
        problems.append(f"candidate share of the middle chunks' rank is {share:.4f}, expected {expected:.4f}")


_SHOWS = "prefill graphs and eager: the same candidates and choices"
CHUNKS: dict[str, tuple[str, int, Callable[..., None]]] = {
    **{
        f"chunks-{chunk}": (f"chunks of {chunk}, {_SHOWS}", 1, partial(_graphs_and_eager, chunk))
        for chunk in (1024, 2048, 8192)
    },
    "chunks-dp": (
        "DP attention, a divided chunk, decode rows beside a peer's prefill",
        2,
        _beside_a_peers_prefill,
    ),
}


def run_chunk(name: str, machine: Machine, plugin: Path) -> CaseRow:
    """Run one of ``CHUNKS``; returns its row."""
    shows, gpus, probe = CHUNKS[name]
    return row_of(name, Case(shows, gpus=gpus), machine, partial(probe, machine, plugin))
