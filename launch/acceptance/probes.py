"""Probes: each asks a stock and a HISA server and records facts, and problems if there are any."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sglang_hisa import PAGE
from sglang_hisa.kernels.layout import SUMMARY_BYTES
from sglang_hisa.launch.acceptance import rounding
from sglang_hisa.launch.acceptance.cases import ADAPTER
from sglang_hisa.launch.acceptance.record import Facts, KeptReceipt
from sglang_hisa.launch.acceptance.stress import scenes
from sglang_hisa.launch.common import receipts
from sglang_hisa.launch.common.receipts import Receipt
from sglang_hisa.launch.common.server import ServerProcess
from sglang_hisa.launch.common.serving import prompt

NOT_PRUNED = "no row was pruned"


@dataclass(frozen=True)
class Sizes:
    """Tokens of a row's ``budget``, of ``short`` prompts that fit it, of the ``longest`` other, and of one
    that is asked alone (``longer``); requests ``at_once``."""

    budget: int
    short: tuple[int, ...]
    longest: int
    at_once: int
    longer: int = 0


@dataclass
class Pair:
    """The two servers, and what the probes have found so far."""

    stock: ServerProcess
    hisa: ServerProcess
    sizes: Sizes
    facts: Facts = field(default_factory=Facts)
    problems: list[str] = field(default_factory=list)


def _answers(
    server: ServerProcess, lengths: Sequence[int], count: int, **fields: Any
) -> list[Mapping[str, Any]]:
    """Answers to prompts of these lengths, one at a time, starting with an empty cache."""
    server.flush_cache()
    return [server.generate(prompt(n, n), count, **fields) for n in lengths]


def _accepted(answers: Sequence[Mapping[str, Any]]) -> float | None:
    """Tokens that a verify step accepted on average; None without speculative decoding."""
    steps = sum(answer["meta_info"].get("spec_verify_ct") or 0 for answer in answers)
    return sum(len(a["output_ids"]) for a in answers) / steps if steps else None


def _agreement(
    stock: ServerProcess,
    lengths: Sequence[int],
    theirs: Sequence[rounding.Answer],
    ours: Sequence[rounding.Answer],
    **fields: Any,
) -> rounding.Agreement:
    """Answers to these prompts beside stock's; ``fields`` were in each request."""

    def likely_at(number: int, at: int) -> rounding.Likely:
        # Asked for where answers differ, after the same text: a request for log-probs takes no piecewise
        # prefill graph and is in no mixed chunk, so the answers themselves are asked for without.
        text = prompt(lengths[number], lengths[number]) + theirs[number]["output_ids"][:at]
        return rounding.likely(stock.generate(text, 1, **rounding.LOGPROBS, **fields), 0)

    return rounding.compare(theirs, ours, likely_at)


def within(pair: Pair) -> None:
    """Prompts within the budget: HISA answers as stock does, but for rounding."""
    lengths = pair.sizes.short
    first, again = (_answers(pair.stock, lengths, 24) for _ in range(2))
    ours = _answers(pair.hisa, lengths, 24)
    agreement = _agreement(pair.stock, lengths, first, ours)
    pair.facts.stock_repeats = rounding.same_tokens(first, again)
    pair.facts.hisa_equals_stock, pair.facts.gap_nats = agreement.share, agreement.gap_nats
    if agreement.wrong:
        pair.problems.append(
            f"within the budget HISA's answers are not stock's: {'; '.join(agreement.wrong)}"
        )
    if (drafted := _accepted(first)) is not None:
        pair.facts.stock_tokens_a_step, pair.facts.hisa_tokens_a_step = drafted, _accepted(ours)


def beyond(pair: Pair) -> None:
    """Prompts beyond the budget out of a tree of prefixes, twice: all answers whole, prefixes found."""
    load, source = scenes.Load(pair.sizes.longest, pair.sizes.at_once), random.Random(5)
    for _ in range(2):
        found = scenes.radix(pair.hisa, load, source)
        pair.problems += found.problems
    pair.facts.requests, pair.facts.cached_tokens = 2 * found.requests, found.facts["cached_tokens"]
    if found.facts["cached_tokens"] < PAGE:
        pair.problems.append("no request found a prefix in the cache")


def checked_receipt(receipt: Receipt | None) -> tuple[KeptReceipt, list[str]]:
    """What the record keeps of a rank's receipt, and what is wrong with it."""
    if receipt is None or receipts.problem([receipt], hisa=True):
        return KeptReceipt(), ["no active receipt"]
    canary = receipt.canary
    kept = KeptReceipt(
        layers=receipt.layers,
        hisa_steps=receipt.hisa_steps,
        graphs_with_hisa=receipt.graphs_with_hisa,
        canary_checks=canary.checks,
        violations=canary.violations,
        summary_rebuilds=receipt.summary_rebuilds,
        stock_rows=receipt.rows.stock,
        candidate_share={name: phase.candidate_share for name, phase in receipt.rows.phases.items()},
    )
    wrong = [] if canary.checks else ["canary: it checked no summary"]
    wrong += [f"canary: {canary.violations} of {canary.checks} summaries wrong"] if canary.violations else []
    if min(filter(None, kept.candidate_share.values()), default=1) >= 1:
        wrong.append(NOT_PRUNED)
    return kept, wrong


def keep_receipts(server: ServerProcess, facts: Facts, problems: list[str]) -> list[KeptReceipt]:
    """Add each rank's receipt to ``facts`` and its faults to ``problems``; returns what was added."""
    found = []
    for rank, receipt in enumerate(receipts.typed(server.receipts())):
        kept, wrong = checked_receipt(receipt)
        found.append(kept)
        problems += [f"rank {rank}: {one}" for one in wrong]
    facts.ranks = (*(facts.ranks or ()), *found)
    return found


def both_phases(pair: Pair) -> None:
    """HISA served every rank's prefill and decode, and no summary was wrong."""
    for rank, kept in enumerate(keep_receipts(pair.hisa, pair.facts, pair.problems)):
        if kept != KeptReceipt():
            steps = kept.hisa_steps
            if not steps.get("prefill") or not (set(steps) - {"prefill"} or kept.graphs_with_hisa):
                pair.problems.append(f"rank {rank}: HISA's steps are {steps}")


def evicted(pair: Pair) -> None:
    """Prompts twice as long together as the device's pool, three times: pages come back from the host."""
    lengths = [pair.sizes.longest - 7 * i for i in range(8)]
    for _ in range(3):
        answers = [pair.hisa.generate(prompt(n, n), 4) for n in lengths]
    back = [(a["meta_info"].get("cached_tokens_details") or {}).get("host", 0) for a in answers]
    pair.facts.tokens_from_host = sum(back)
    told = filter(None, receipts.typed(pair.hisa.receipts()))
    rebuilt = sum(one.summary_rebuilds.get("hicache_load", 0) for one in told)
    if not sum(back) or not rebuilt:
        pair.problems.append(f"nothing came back from the host: {back}, {rebuilt} summaries rebuilt")


def adapter(pair: Pair) -> None:
    """Requests with the adapter: within the budget answered as stock does, and otherwise than without it;
    beyond it beside requests without."""
    named = {"lora_path": ADAPTER}
    lengths = [pair.sizes.budget * 3 // 4 - 7 * i for i in range(4)]
    plain, theirs = _answers(pair.stock, lengths, 24), _answers(pair.stock, lengths, 24, **named)
    ours = _answers(pair.hisa, lengths, 24, **named)
    agreement = _agreement(pair.stock, lengths, theirs, ours, **named)
    pair.facts.adapted_equals_stock, pair.facts.adapted_gap_nats = agreement.share, agreement.gap_nats
    pair.facts.adapted_equals_plain = rounding.same_tokens(plain, theirs)
    if agreement.wrong:
        pair.problems.append(f"with the adapter HISA's answers are not stock's: {'; '.join(agreement.wrong)}")
    if pair.facts.adapted_equals_plain == 1:
        pair.problems.append("the adapter changes none of stock's answers")
    asked = [(pair.sizes.longest - 65 * i, fields) for i in range(4) for fields in (named, {})]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda one: pair.hisa.generate(prompt(one[0], 11), 24, **one[1]), asked))
    if any(len(answer["output_ids"]) != 24 for answer in answers):
        pair.problems.append("an answer beside others with the adapter is not whole")


def keyless(pair: Pair) -> None:
    """Only layers that choose for themselves have index keys, so only they have summaries."""
    (receipt,) = filter(None, receipts.typed(pair.hisa.receipts()))
    tokens = pair.hisa.request("/server_info")["max_total_num_tokens"]
    pages = tokens // PAGE + 1  # SGLang's dummy page is one more
    pair.facts.layers_with_summaries = receipt.summary_bytes / (pages * SUMMARY_BYTES)
    if pair.facts.layers_with_summaries != receipt.layers:
        pair.problems.append(
            f"{pair.facts.layers_with_summaries:.2f} layers have summaries, {receipt.layers} choose tokens"
        )


def sleep(pair: Pair) -> None:
    """Release and resume the memory of the KV cache; the probes that follow must still pass."""
    for server in (pair.stock, pair.hisa):
        server.generate(prompt(pair.sizes.longest, 3), 4)
        server.flush_cache()
        for path in ("/release_memory_occupation", "/resume_memory_occupation"):
            server.request(path, {"tags": ["kv_cache"]})
    pair.facts.slept = True


def long(pair: Pair) -> None:
    """One prompt as long as the context allows: seconds to its first token, with an empty cache and a full
    one, and between the tokens after it; the memory of the summaries."""

    def seconds(server: ServerProcess, count: int) -> list[float]:
        """From the request to its first token, and of each one after it: several may come at once."""
        asked, began = prompt(pair.sizes.longer, 2), time.perf_counter()
        seen: dict[int, float] = {}
        for answer in server.stream(asked, count):
            seen.setdefault(len(answer["output_ids"]), time.perf_counter())
        after = itertools.pairwise(seen.items())
        each = [(end - begin) / (now - before) for (before, begin), (now, end) in after]
        return [min(seen.values()) - began, *each]

    for name, server in (("stock", pair.stock), ("hisa", pair.hisa)):
        server.generate(prompt(pair.sizes.longest, 2), 2)  # what compiles at the first long prompt
        server.flush_cache()
        (first,) = seconds(server, 1)
        cached, *between = seconds(server, 65)
        setattr(pair.facts, f"{name}_ttft_s", round(first, 3))
        setattr(pair.facts, f"{name}_cached_ttft_s", round(cached, 3))
        setattr(pair.facts, f"{name}_itl_ms", round(statistics.median(between) * 1e3, 3))
    pair.facts.kv_tokens = pair.hisa.request("/server_info")["max_total_num_tokens"]
    (receipt,) = filter(None, receipts.typed(pair.hisa.receipts()))
    pair.facts.summary_mib = round(receipt.summary_bytes / (1 << 20), 2)


def idle_beside_busy(pair: Pair) -> None:
    """DP attention: one request, so that the other ranks are idle, then several at once."""
    pair.hisa.generate(prompt(pair.sizes.longest, 8), 8)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda n: pair.hisa.generate(prompt(n, n), 8), (pair.sizes.longest, 65, 7)))


PROBES: dict[str, Callable[[Pair], None]] = {
    "sleep": sleep,
    "within": within,
    "beyond": beyond,
    "adapter": adapter,
    "keyless": keyless,
    "evicted": evicted,
    "idle": idle_beside_busy,
    "long": long,
    "receipts": both_phases,
}
"""In the order in which they run."""
ALWAYS = ("within", "beyond", "receipts")
