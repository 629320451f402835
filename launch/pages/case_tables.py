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
from sglang_hisa.launch.common.text import or_dash, plain

_SEEN: dict[str, Callable[[Any], str]] = {
    "adapted_equals_stock": "with the adapter {:.0%} of stock's tokens with it".format,
    "adapted_equals_plain": "of which {:.0%} are those without it".format,
    "adapted_gap_nats": "where these part, {:.3f} nats between the two tokens".format,
    "layers_with_summaries": "summaries of {:g} layers".format,
    "tokens_from_host": "{:,} tokens back from the host".format,
    "slept": lambda _: "KV memory released and resumed",
    "stock_tokens_a_step": "{:.2f} tokens a verify step of stock".format,
    "hisa_tokens_a_step": "{:.2f} of HISA".format,
    "equals_alone_beyond": "beyond the budget {:.0%} of one server's tokens".format,
    "gap_nats": "where answers part from stock's, {:.3f} nats between the two tokens".format,
    "calls": "{:,} calls of the indexer".format,
    "calls_that_differ": lambda n: f"in {n:,} the ranks differ" if n else "the same choices on both ranks",
    "shares": lambda by: "candidate share " + ", ".join(f"{s:.4f} ({name})" for name, s in by.items()),
    "expected_share": "by the rule {:.4f}".format,
    "calls_in_graphs": lambda n: (
        f"{n:,} of them from prefill graphs" if n else "none of them from a prefill graph"
    ),
    "same_choices": lambda by: "in common " + ", ".join(f"{s:.2%} (layer {n})" for n, s in by.items()),
    "same_again": lambda by: "eager with itself " + ", ".join(f"{s:.2%}" for s in by.values()),
    "decode_rows_as_extend": lambda n: (
        f"{n:,} calls for a decode row that ran as an extend beside a peer's prefill"
    ),
    "most_candidates_of_a_decode_row": "with at most {:,} candidates".format,
    "message": lambda text: f"stopped: “{plain(text.splitlines()[0])}”",
    "summary_mib": "{:,.1f} MiB of summaries".format,
    "kv_tokens": "for {:,} tokens of KV cache".format,
    "stock_ttft_s": "first token of stock after {:.1f} s".format,
    "hisa_ttft_s": "of HISA after {:.1f}".format,
    "stock_itl_ms": "each more after {:.1f} ms".format,
    "hisa_itl_ms": "of HISA, canary included, after {:.1f}".format,
}
"""How each of :class:`Facts` that only some cases have is told."""


def cases(rows: Iterable[CaseRow]) -> tuple[list[str], list[list[str]]]:
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
    equal = or_dash(facts.equal, "{:.0%}")
    if facts.stock_repeats is not None and facts.stock_repeats < 1:
        equal += f" (stock again: {facts.stock_repeats:.0%})"
    cells = [equal, or_dash(facts.requests), *(_share(receipts, phase) for phase in ("prefill", "decode"))]
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
