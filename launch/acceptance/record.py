"""The record of acceptance: a row for each case."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_hisa.launch.common import record


@dataclass(frozen=True)
class KeptReceipt:
    """What a row keeps of a scheduler's receipt; all empty where HISA was not active."""

    layers: int = 0
    hisa_steps: dict[str, int] = field(default_factory=dict)
    graphs_with_hisa: int = 0
    canary_checks: int = 0
    violations: int = 0
    summary_rebuilds: dict[str, int] = field(default_factory=dict)
    stock_rows: dict[str, int] = field(default_factory=dict)
    candidate_share: dict[str, float | None] = field(default_factory=dict)


@dataclass(slots=True)
class Facts:
    """What was seen of a case; probes fill in what they find. Shares are of the tokens of all answers, before
    each first difference; times in seconds unless the name says ms."""

    model: str | None = None
    stock_ready_s: int | None = None
    hisa_ready_s: int | None = None
    graphs_ready_s: int | None = None
    eager_ready_s: int | None = None
    ready_s: float | None = None

    hisa_equals_stock: float | None = None
    equals_stock_within: float | None = None
    """Of a prefill and a decode server, within the budget."""
    equals_alone_beyond: float | None = None
    """Of such a pair, beside one server with the same setting, beyond the budget."""
    stock_repeats: float | None = None
    """Stock's own answers, asked for twice."""
    gap_nats: float | None = None
    """The largest at a first difference, between the two tokens."""
    requests: int | None = None
    cached_tokens: float | None = None
    """The most that a request found in the cache."""
    stock_tokens_a_step: float | None = None
    """Tokens that a verify step accepted."""
    hisa_tokens_a_step: float | None = None
    adapted_equals_stock: float | None = None
    """With a LoRA adapter, within the budget."""
    adapted_equals_plain: float | None = None
    """Stock's answers with the adapter, beside those without it."""
    adapted_gap_nats: float | None = None
    layers_with_summaries: float | None = None
    tokens_from_host: int | None = None
    slept: bool | None = None

    stock_ttft_s: float | None = None
    stock_cached_ttft_s: float | None = None
    stock_itl_ms: float | None = None
    hisa_ttft_s: float | None = None
    hisa_cached_ttft_s: float | None = None
    hisa_itl_ms: float | None = None
    kv_tokens: int | None = None
    summary_mib: float | None = None

    calls: int | None = None
    """Of the indexer."""
    calls_in_graphs: int | None = None
    calls_that_differ: int | None = None
    """Between the two ranks."""
    message: str | None = None
    """What a server said that refused to start."""
    prompts: tuple[int, ...] | None = None
    """Tokens of each."""
    shares: dict[str, float] | None = None
    """Candidate share of each server."""
    expected_share: float | None = None
    same_choices: dict[int, float] | None = None
    """By layer, share of the eager server's tokens that the one with prefill graphs chose, too."""
    same_again: dict[int, float] | None = None
    """The same of the eager server, asked twice."""
    decode_rows_as_extend: int | None = None
    most_candidates_of_a_decode_row: int | None = None

    ranks: tuple[KeptReceipt, ...] | None = None
    receipt: KeptReceipt | None = None
    prefill: KeptReceipt | None = None
    """Of the prefill server of a pair."""
    decode: KeptReceipt | None = None

    @property
    def receipts(self) -> list[KeptReceipt]:
        """Of each rank, of one server, or of both sides of a pair; without those that were not active."""
        every = (*(self.ranks or ()), self.receipt, self.prefill, self.decode)
        return [one for one in every if one is not None and one != KeptReceipt()]

    @property
    def equal(self) -> float | None:
        """Share of stock's tokens that HISA's answers within the budget had."""
        return self.equals_stock_within if self.hisa_equals_stock is None else self.hisa_equals_stock


@dataclass(frozen=True, kw_only=True)
class CaseRow(record.Row):
    """One case; with a problem, it is not right."""

    case: str
    shows: str
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    problems: tuple[str, ...] = ()
    log_tails: dict[str, tuple[str, ...]] | None = None
    """The last lines of each log, where a server or a probe failed."""
    seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class CaseRecord(record.Record):
    """The newest row of each case."""

    rows: tuple[CaseRow, ...] = ()
