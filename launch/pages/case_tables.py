"""docs/supported.md's tables of the acceptance records: what each case showed, and what has not run yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sglang_hisa.launch.acceptance import whole
from sglang_hisa.launch.acceptance.cases import CASES
from sglang_hisa.launch.acceptance.cases import of as cases_of
from sglang_hisa.launch.acceptance.chunks import CHUNKS
from sglang_hisa.launch.acceptance.pd import SIDES
from sglang_hisa.launch.acceptance.ranks import RANKS
from sglang_hisa.launch.acceptance.record import CaseRow, KeptReceipt
from sglang_hisa.launch.common.text import plain

Table = tuple[list[str], list[list[str]]]

_SEEN: dict[str, Callable[[Any], str]] = {
    "adapted_equals_stock": lambda n: f"with the adapter {n:.0%} of stock's tokens with it",
    "adapted_equals_plain": lambda n: f"of which {n:.0%} are those without it",
    "adapted_gap_nats": lambda n: f"where these part, {n:.3f} nats between the two tokens",
    "layers_with_summaries": lambda n: f"summaries of {n:g} layers",
    "tokens_from_host": lambda n: f"{n:,} tokens back from the host",
    "slept": lambda _: "KV memory released and resumed",
    "stock_tokens_a_step": lambda n: f"{n:.2f} tokens a verify step of stock",
    "hisa_tokens_a_step": lambda n: f"{n:.2f} of HISA",
    "equals_alone_beyond": lambda n: f"beyond the budget {n:.0%} of one server's tokens",
    "gap_nats": lambda n: f"where answers part from stock's, {n:.3f} nats between the two tokens",
    "calls": lambda n: f"{n:,} calls of the indexer",
    "calls_that_differ": lambda n: f"in {n:,} the ranks differ" if n else "the same choices on both ranks",
    "shares": lambda by: "candidate share " + ", ".join(f"{s:.4f} ({name})" for name, s in by.items()),
    "expected_share": lambda share: f"by the rule {share:.4f}",
    "calls_in_graphs": lambda n: (
        f"{n:,} of them from prefill graphs" if n else "none of them from a prefill graph"
    ),
    "same_choices": lambda by: "in common " + ", ".join(f"{s:.2%} (layer {n})" for n, s in by.items()),
    "same_again": lambda by: "eager with itself " + ", ".join(f"{s:.2%}" for s in by.values()),
    "decode_rows_as_extend": lambda n: (
        f"{n:,} calls for a decode row that ran as an extend beside a peer's prefill"
    ),
    "most_candidates_of_a_decode_row": lambda n: f"with at most {n:,} candidates",
    "message": lambda text: f"stopped: “{plain(text.splitlines()[0])}”",
    "summary_mib": lambda n: f"{n:,.1f} MiB of summaries",
    "kv_tokens": lambda n: f"for {n:,} tokens of KV cache",
    "stock_ttft_s": lambda s: f"first token of stock after {s:.1f} s",
    "hisa_ttft_s": lambda s: f"of HISA after {s:.1f}",
    "stock_itl_ms": lambda ms: f"each more after {ms:.1f} ms",
    "hisa_itl_ms": lambda ms: f"of HISA, canary included, after {ms:.1f}",
}
"""How each of :class:`Facts` that only some cases have is told."""


def cases(rows: Iterable[CaseRow]) -> Table:
    """A row for each case of a record, in the order of the cases."""
    found = {row.case: row for row in rows}
    known = dict.fromkeys((*CASES, *CHUNKS, *SIDES, *RANKS))
    names = [name for name in {**known, **found} if name in found]
    head = ["case", "shows", "tokens as stock's, within the budget", "requests"]
    head += ["candidate share, prefill", "decode", "summaries checked", "wrong", "what was seen"]
    return head, [_case(found[name]) for name in names]


def left(rows: Iterable[CaseRow], gpus: int, releases: Iterable[str]) -> list[str]:
    """Cases for ``gpus`` that a record of these SGLangs lacks, of those that they have."""
    wanted = [name for name, case in cases_of(gpus).items() if {*releases} & {*case.versions}]
    wanted += whole.cases(gpus) if gpus == 8 else ()
    wanted += [name for name, (_, count, _) in CHUNKS.items() if count == gpus]
    wanted += [*SIDES, *RANKS] if gpus > 1 else []
    there = {row.case for row in rows}
    return [name for name in wanted if name not in there]


def _case(row: CaseRow) -> list[str]:
    facts, receipts = row.facts, row.facts.receipts
    equal = "–" if facts.equal is None else f"{facts.equal:.0%}"
    if facts.stock_repeats is not None and facts.stock_repeats < 1:
        equal += f" (stock again: {facts.stock_repeats:.0%})"
    cells = [equal, "–" if facts.requests is None else str(facts.requests)]
    cells += [_share(receipts, phase) for phase in ("prefill", "decode")]
    wrong = sum(one.violations for one in receipts)
    checks = sum(one.canary_checks for one in receipts)
    cells += [f"{checks:,}", f"**{wrong:,}**" if wrong else "0"] if receipts else ["–", "–"]
    return [f"`{row.case}`", row.shows, *cells, _seen(row)]


def _share(receipts: list[KeptReceipt], phase: str) -> str:
    """The largest of the ranks: where least was pruned."""
    known = [share for one in receipts if (share := one.candidate_share.get(phase)) is not None]
    return f"{max(known):.2f}" if any(known) else "–"


def _seen(row: CaseRow) -> str:
    """Problems first, then what only this case has."""
    said = [f"**not right**: {plain(text)}" for text in row.problems]
    facts = ((say, getattr(row.facts, name)) for name, say in _SEEN.items())
    said += [say(fact) for say, fact in facts if fact is not None]
    rebuilt = sum(sum(one.summary_rebuilds.values()) for one in row.facts.receipts)
    said += [f"{rebuilt:,} summaries rebuilt"] if rebuilt else []
    return "; ".join(said) or "–"
