"""One load of a cell: what is asked of a server, and what is kept of the benchmark's result."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sglang_hisa.launch.ab.plan import Cell, Plan
from sglang_hisa.launch.ab.record import Measurement, Window
from sglang_hisa.launch.common import steady
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.client import Client
from sglang_hisa.launch.common.logs import decoded
from sglang_hisa.launch.common.server import ServerProcess


def arguments(url: str, model: str, cell: Cell, seed: int) -> list[str]:
    """The benchmark's flags: token ids of exact length, radix cache flushed before it.

    A shared prefix comes from :meth:`Client.run`, and is to stay in the cache.
    """
    found = [
        *("--backend", "sglang", "--base-url", url, "--model", model, "--tokenizer", model),
        *("--dataset-name", "random-ids", "--tokenize-prompt", "--random-range-ratio", "1"),
        *("--random-input-len", str(cell.own_tokens), "--random-output-len", str(cell.output_tokens)),
        *("--num-prompts", str(cell.requests), "--max-concurrency", str(cell.concurrency)),
        *("--warmup-requests", "0", "--seed", str(seed), "--cache-report"),
    ]
    return found if cell.prefix_tokens else [*found, "--flush-cache"]


def kept(result: Mapping[str, Any], arm: str, index: int, number: int, cell: Cell, seed: int) -> Measurement:
    """What a record keeps of the benchmark's result, of round ``index`` and the ``number``-th cell.

    Where requests share a prefix, the steady state's window stands for the times of thousands of tokens.
    """
    gaps: list[list[float]] = result["itls"]
    whole = [len(error) == 0 for error in result["errors"]]
    timed = () if cell.prefix_tokens else [g for g, ok in zip(gaps, whole) if ok]
    cached = tuple(result.get("cached_tokens", ()))
    return Measurement(
        round=index,
        arm=arm,
        cell=number,
        seed=seed,
        requests=cell.requests,
        completed=result["completed"],
        errors=tuple(sorted({error for error in result["errors"] if error})),
        input_lens=tuple(result["input_lens"]),
        output_lens=tuple(result["output_lens"]),
        ttft_s=tuple(round(t, 6) for t, ok in zip(result["ttfts"], whole) if ok),
        tpot_s=tuple(round(statistics.fmean(g), 6) for g, ok in zip(gaps, whole) if ok and g),
        itl_s=tuple(round(t, 6) for g in timed for t in g),
        output_tok_s=result["output_throughput"],
        total_tok_s=result["total_throughput"],
        duration_s=result["duration"],
        cached_tokens=sum(cached),
        cached=cached,
    )


@dataclass
class Loads:
    """The loads of one run.

    Args:
        nonce: makes prompts new to caches of earlier runs.
        apart: arms may share a storage, so that each has prompts of its own.
        owned: the servers are this run's own, which may pause them until all requests that share a prefix
            are there.
    """

    client: Client
    plan: Plan
    model: str
    nonce: str
    apart: bool
    owned: bool = True
    known: dict[Arm, int] = field(default_factory=dict)
    """Tokens of the shared prefix that a server saw since it started, or since a cell flushed its cache."""

    def measure(self, arm: Arm, server: ServerProcess, index: int, number: int, warmup: bool) -> Measurement:
        """A cell in a round, after its ``warmup`` and the request that brings a shared prefix.

        Raises:
            ClientFailed: the benchmark ended without a result.
        """
        cell = self.plan.cells[number]
        seed = self.plan.seed + 1000 * index + number  # of the pair, the same in every arm
        size, known = cell.prefix_tokens, self.known.get(arm, 0)
        prefix = (f"{self._fresh(arm, self.plan.seed)} prefix", size) if size else None
        warm: list[int] = []
        if warmup or prefix:
            flags = arguments(server.url, self.model, self.plan.warmup(cell), seed)
            new = f"{self._fresh(arm, seed)} warm-up of {arm.name}"
            warm = self.client.run(flags, fresh=new, prefix=prefix)["cached_tokens"]
        flags = arguments(server.url, self.model, cell, seed)
        begun = server.log.stat().st_size
        hold = self.owned and cell.prefix_tokens > 0 and cell.concurrency > 1
        result = self.client.run(flags, fresh=self._fresh(arm, seed), prefix=prefix, hold=hold)
        self.known[arm] = max(known, size) if size else 0
        found = kept(result, arm.name, index, number, cell, seed)
        if (still := steady.of_result(result, cell.concurrency, cell.output_tokens)) is not None:
            with server.log.open(errors="replace") as log:
                log.seek(begun)
                rate = decoded(log.read(), cell.concurrency)
            found = replace(found, steady=Window(**vars(still), server_tok_s=rate))
        return replace(found, known_prefix=known, warmup_cached=sum(warm)) if size else found

    def _fresh(self, arm: Arm, seed: int) -> str:
        return f"{self.nonce} {seed}{f' {arm.name}' if self.apart else ''}"
