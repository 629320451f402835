"""The record of `hisa ab`: what was planned, what was measured, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sglang_hisa.launch.ab.plan import KeptPlan
from sglang_hisa.launch.common import receipts, record
from sglang_hisa.launch.common.limits import Limits
from sglang_hisa.launch.common.steady import Steady
from sglang_hisa.launch.common.typed import null


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Stock DSA's scores of the longest prefill chunk of the cells that show TTFT (:mod:`.scoring`)."""

    rows: int
    """Query tokens of the chunk."""
    context: int
    """Tokens that each is scored over."""
    needed_bytes: int
    allowed_bytes: int
    free_bytes: int | None = None
    """Of its GPU, where these and not the fraction set what is allowed."""
    mem_fraction_static: float | None = None
    pieces: int
    """At least so many, one after the other."""
    default_pieces: int
    """About as many with SGLang's default fraction, alone on the GPU."""


@dataclass(frozen=True, kw_only=True)
class ArmFacts(receipts.ArmFacts):
    """Of one arm: its setting, and what its server said; None until it has started."""

    setting: str | None = null()
    kv_tokens: int | None = null()
    summary_bytes: int | None = null()
    """Of all schedulers; None of stock DSA."""
    version: str | None = null()
    """SGLang's."""
    starts_s: tuple[float, ...] = ()
    """Seconds of each start."""
    retractions: int | None = null()
    limits: Limits | None = None
    scoring: Scoring | None = None
    """Of an arm whose prefill is stock DSA's; of several starts, the one with the most pieces."""


@dataclass(frozen=True, kw_only=True)
class Window(Steady):
    """Decode at steady state, and the tokens a second by the server's log."""

    server_tok_s: float | None = null()


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One load on one arm. Times in seconds: TTFT and TPOT of each request, every gap between two tokens."""

    round: int
    arm: str
    cell: int
    seed: int
    requests: int
    completed: int
    errors: tuple[str, ...]
    input_lens: tuple[int, ...]
    output_lens: tuple[int, ...]
    ttft_s: tuple[float, ...]
    """Of requests that share a prefix it says nothing: the server was held until it had them all."""
    tpot_s: tuple[float, ...]
    itl_s: tuple[float, ...]
    """Empty in a cell with a shared prefix, where the ``steady`` window stands for them."""
    output_tok_s: float
    total_tok_s: float
    duration_s: float
    cached_tokens: int = 0
    cached: tuple[int | None, ...] = ()
    """Tokens of each prompt that a cache had; None: the server did not say."""
    steady: Window | None = null()
    known_prefix: int | None = None
    """Tokens of the shared prefix that the server had seen before."""
    warmup_cached: int | None = None
    """Tokens that the warm-up, which brings the shared prefix, found in the cache."""

    @property
    def failed(self) -> bool:
        """Whether a request of it failed: what is left is a lighter load, not comparable."""
        return bool(self.errors) or self.completed < self.requests

    @property
    def window(self) -> Window | None:
        """Decode at steady state; None where too few tokens came while all requests decoded."""
        found = self.steady
        return None if self.failed or found is None or not found.enough else found


@dataclass(frozen=True, kw_only=True)
class Answers:
    """One prompt, asked of an arm and of the baseline (:func:`sglang_hisa.launch.ab.quality.compare`)."""

    arm: str
    prompt: int
    prompt_tokens: int
    positions: int
    """Positions whose distributions were compared."""
    kl_mean: float
    kl_max: float
    same_first: float
    """Share of the positions whose likeliest token is the same."""
    overlap: tuple[float, ...] | None = null()
    """By layer, share of the tokens that the baseline's indexer chose and the arm's, too."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The baseline against itself in one cell and metric: half-width of the log-ratio."""

    cell: int
    metric: str
    pairs: int
    half_width: float | None = null()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm against the baseline in one cell and metric; None where too little was measured.

    Medians over the rounds (s, tokens/s), the ``ratios`` of the pairs, their geometric mean ``speedup`` with
    its interval ``low`` to ``high``, ``p`` and ``p_holm`` (corrected over the arm), ``noise_floor`` (a
    factor) and ``verdict`` (None of a record with refusals).
    """

    arm: str
    cell: int
    metric: str
    baseline_median: float | None = null()
    arm_median: float | None = null()
    pairs: int = 0
    ratios: tuple[float, ...] = ()
    noise_floor: float | None = null()
    speedup: float | None = null()
    low: float | None = null()
    high: float | None = null()
    p: float | None = null()
    p_holm: float | None = null()
    verdict: str | None = null()


@dataclass(frozen=True, kw_only=True)
class Stats:
    """See :func:`sglang_hisa.launch.ab.stats.compute`."""

    confidence: float
    noise: tuple[Noise, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    verdicts: dict[str, dict[str, int] | None] = field(default_factory=dict)
    """How often each arm got which; None of a record with refusals."""


@dataclass(frozen=True, kw_only=True)
class AbRow(record.Row):
    """A comparison, flat, under the names that all records share (docs/design.md, records)."""

    arm: str
    preset: str | None = null()
    """With what the arm's setting changes of it; None of an arm that was not started."""
    baseline: str
    context: int
    concurrency: int
    shared_prefix: int | None = None
    metric: str
    speedup: float | None = null()
    ci_low: float | None = null()
    ci_high: float | None = null()
    pairs: int
    verdict: str | None = null()


@dataclass(frozen=True, kw_only=True)
class AbRecord(record.RunRecord):
    """One run; ``stats`` and ``rows`` follow from the rest."""

    kind: str = "hisa-ab"
    plan: KeptPlan
    nonce: str = ""
    """What its prompts have that those of no other run have."""
    arms: dict[str, ArmFacts]
    measurements: tuple[Measurement, ...]
    quality: tuple[Answers, ...] = ()
    quality_problems: tuple[str, ...] = ()
    spread: bool = False
    """The weights are made up and their index scores differ (:mod:`sglang_hisa.patches.made_up`); those of
    older records are nearly equal."""
    resumed: tuple[str, ...] | None = None
    """Dates of the runs that this one went on with."""
    stats: Stats | None = None
    rows: tuple[AbRow, ...] = ()

    def of(self, arm: str, cell: int) -> list[Measurement]:
        """The measurements of an arm in a cell."""
        return [one for one in self.measurements if (one.arm, one.cell) == (arm, cell)]

    def found(self, arm: str, cell: int, metric: str) -> Comparison:
        """Raises ``StopIteration`` where the record has no such comparison."""
        every = self.stats.comparisons if self.stats else ()
        return next(c for c in every if (c.arm, c.cell, c.metric) == (arm, cell, metric))

    def median(self, arm: str, cell: int, metric: str) -> float | None:
        """Of any arm, the baseline or another; raises as :meth:`found`."""
        if arm == self.plan.baseline:
            return self.found(self.plan.others[0], cell, metric).baseline_median
        return self.found(arm, cell, metric).arm_median
