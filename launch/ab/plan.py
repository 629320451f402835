"""What an A/B runs: arms, cells (prompt length x concurrency) and the order of the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sglang_hisa import PAGE
from sglang_hisa.launch.common import text
from sglang_hisa.launch.common.arms import Arm

ALPHA = 0.05
"""Chance that an arm equal to the baseline gets a verdict in any cell or metric, unless the plan says."""
MIN_PAIRS = 3
"""Fewer pairs give no verdict."""
WARMUP_OUTPUT = 4
"""Length of the answer to the request that brings a shared prefix into the cache."""

SHARED_GPU = ("--mem-fraction-static", "0.85")
"""Flags of servers that share a GPU, beside the ``--max-total-tokens`` that bounds each pool: SGLang leaves
free the rest of what it found free at its start, and here the others take from that."""


@dataclass(frozen=True)
class Cell:
    """One load: ``requests`` prompts of exactly ``input_tokens``, at most ``concurrency`` at a time.

    The first ``prefix_tokens`` of all prompts are the same, and in the radix cache before they are sent.
    """

    input_tokens: int
    output_tokens: int
    concurrency: int
    requests: int
    prefix_tokens: int = 0

    @property
    def own_tokens(self) -> int:
        """Tokens of a prompt that no other prompt has."""
        return self.input_tokens - self.prefix_tokens

    @property
    def pool_tokens(self) -> int:
        """KV slots of all its requests at once, in whole pages."""
        own = -(-(self.own_tokens + self.output_tokens) // PAGE) * PAGE
        return self.prefix_tokens + self.concurrency * own

    @property
    def prompt(self) -> str:
        """``8K``; with a shared prefix ``128K shared + 64``."""
        own = text.tokens(self.own_tokens)
        return f"{text.tokens(self.prefix_tokens)} shared + {own}" if self.prefix_tokens else own

    @property
    def load(self) -> str:
        """``8K × 4``: prompt and requests at once, of which a single one is not named."""
        alone = self.concurrency == 1 and not self.prefix_tokens
        return self.prompt if alone else f"{self.prompt} × {self.concurrency}"


@dataclass(frozen=True, kw_only=True)
class KeptPlan:
    """A plan as a record has it: arms by name, the baseline one of them."""

    arms: tuple[str, ...]
    baseline: str
    together: bool
    rounds: int
    seed: int
    warmup_tokens: int = 0
    alpha: float = ALPHA
    cells: tuple[Cell, ...]

    @property
    def others(self) -> tuple[str, ...]:
        """Arms that are compared with the baseline."""
        return tuple(arm for arm in self.arms if arm != self.baseline)


@dataclass(frozen=True)
class Plan:
    """The first arm is the baseline that the others are compared with.

    ``warmup_tokens`` bounds the prompt that warms up a cell (before the first measurement of each start);
    ``alpha`` is the chance of a false verdict that an arm is given over all its cells and metrics.
    """

    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    rounds: int
    together: bool
    seed: int
    warmup_tokens: int
    alpha: float

    def __post_init__(self) -> None:
        """Raises ``ValueError``: no round at all."""
        if self.rounds < 1:
            raise ValueError(f"{self.rounds} rounds measure nothing; a verdict needs {MIN_PAIRS} or more")

    def warmup(self, cell: Cell) -> Cell:
        """One request of the cell's lengths, as far as ``warmup_tokens`` lets it be.

        A shared prefix is always whole: this request brings it into the radix cache.
        """
        if cell.prefix_tokens:
            return Cell(cell.input_tokens, WARMUP_OUTPUT, 1, 1, cell.prefix_tokens)
        return Cell(min(cell.input_tokens, self.warmup_tokens), cell.output_tokens, 1, 1)

    def order(self, index: int) -> tuple[Arm, ...]:
        """Arms of a round: forward, then backward, so that a drift of the machine cancels in pairs (ABBA)."""
        return self.arms if index % 2 == 0 else self.arms[::-1]

    def kept(self) -> KeptPlan:
        """The ``plan`` of the record."""
        return KeptPlan(
            arms=tuple(arm.name for arm in self.arms),
            baseline=self.arms[0].name,
            together=self.together,
            rounds=self.rounds,
            seed=self.seed,
            warmup_tokens=self.warmup_tokens,
            alpha=self.alpha,
            cells=self.cells,
        )


def too_few(rounds: int) -> str:
    """The announcement of a run without verdicts."""
    return f"--rounds {rounds} gives speed-ups but no verdict, which needs at least {MIN_PAIRS} rounds"


def parse_tokens(text: str) -> int:
    """``8192``, ``8k`` (1024s) or ``1m``. Raises ``ValueError``."""
    unit = {"k": 1 << 10, "m": 1 << 20}.get(text[-1:].lower(), 1)
    try:
        return int(text[:-1] if unit > 1 else text) * unit
    except ValueError:
        raise ValueError(f"{text!r} is not a number of tokens, such as 8192, 8k or 1m") from None


def _cell(length: str, output_tokens: int, concurrency: int, waves: int) -> Cell:
    """One cell; ``length`` is ``8k`` or, with a shared prefix, ``128k+64``. Raises ``ValueError``."""
    prefix, plus, own = length.partition("+")
    if not plus:
        return Cell(parse_tokens(length), output_tokens, concurrency, concurrency * waves)
    shared = parse_tokens(prefix)
    if shared < PAGE or shared % PAGE:
        raise ValueError(f"{length!r}: a shared prefix must be a whole number of {PAGE}-token pages")
    if parse_tokens(own) < 1 or waves != 1:
        raise ValueError(f"{length!r}: prompts with a shared prefix need tokens of their own and --waves 1")
    return Cell(shared + parse_tokens(own), output_tokens + concurrency - 1, concurrency, concurrency, shared)


def parse_cells(text: str, output_tokens: int, waves: int) -> tuple[Cell, ...]:
    """``8k:1,4 256k:1`` -> cells of 8K at concurrency 1 and 4 and of 256K at 1; ``waves`` prompts a slot.

    ``128k+64:64``: 64 requests at once share a prefix of 128K tokens and have 64 tokens of their own. Their
    answers are longer by a token for each request beside them, should the first decode before the last is
    taken in: the server is held until it has all of them (:mod:`sglang_hisa.launch.common.held`).

    Raises:
        ValueError: not of that form, or a number below 1.
    """
    cells = []
    for part in text.split():
        length, colon, levels = part.partition(":")
        for level in (levels if colon else "1").split(","):
            if not level.strip().isdecimal():
                raise ValueError(f"{part!r}: {level!r} is not a number of concurrent requests")
            cell = _cell(length, output_tokens, int(level), waves)
            if min(cell.input_tokens, cell.output_tokens, cell.requests) < 1:
                raise ValueError(f"{part!r}: lengths, concurrency and waves must be at least 1")
            cells.append(cell)
    if not cells:
        raise ValueError("there is no cell; an example: '8k:1,4 128k:1'")
    return tuple(cells)


def visits(plan: Plan) -> Sequence[tuple[Arm, tuple[int, ...]]]:
    """Server starts of a run with fresh servers: arm and the rounds measured before it stops.

    The last arm of a round is the first of the next: it stays up.
    """
    found: list[tuple[Arm, tuple[int, ...]]] = []
    for index in range(plan.rounds):
        for arm in plan.order(index):
            if found and found[-1][0] == arm:
                found[-1] = (arm, (*found[-1][1], index))
            else:
                found.append((arm, (index,)))
    return found
