"""Whether two greedy answers differ by rounding only.

A small model with random weights often finds two tokens almost equally likely, and a kernel or a batch that
rounds differently picks the other one. So the first difference is judged by the log-probabilities that the
reference gave to the two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LIMIT = 0.05
"""Nats between two tokens that rounding may swap."""
TOP = 20
LOGPROBS = {"return_logprob": True, "top_logprobs_num": TOP}
"""Fields of a request. Log-probs of the output only, SGLang's default: those of a prompt would change how it
is computed."""

Answer = Mapping[str, Any]
Likely = Mapping[int, float]
"""Token id -> log-probability of the ``TOP`` most likely."""


@dataclass(frozen=True)
class Agreement:
    """Answers beside reference answers.

    Args:
        share: of the tokens that are equal, before each first difference.
        gap: the largest at the first differences, in nats; None where there is none.
        wrong: the differences that are more than rounding, in words.
    """

    share: float
    gap: float | None
    wrong: list[str]

    @property
    def gap_nats(self) -> float | None:
        """``gap`` as a record keeps it."""
        return None if self.gap is None else round(self.gap, 4)


def likely(answer: Answer, position: int) -> dict[int, float]:
    """At a position of the output of an answer that was asked for with ``LOGPROBS``."""
    rows = answer["meta_info"]["output_top_logprobs"]
    return {int(token): logprob for logprob, token, *_ in rows[position]}


def first_difference(one: Answer, other: Answer) -> int | None:
    """Position of the first token that differs."""
    pairs = zip(one["output_ids"], other["output_ids"])
    return next((at for at, (x, y) in enumerate(pairs) if x != y), None)


def same_tokens(one: Sequence[Answer], other: Sequence[Answer]) -> float:
    """Share of the tokens before the first difference."""
    equal = total = 0
    for a, b in zip(one, other):
        length = min(len(a["output_ids"]), len(b["output_ids"]))
        at = first_difference(a, b)
        equal += length if at is None else at
        total += length
    return equal / total


def compare(
    reference: Sequence[Answer], others: Sequence[Answer], likely_at: Callable[[int, int], Likely]
) -> Agreement:
    """Judge each answer by its first difference; what follows it has another text before it.

    Args:
        likely_at: what the reference held likely, by number of the answer and position in it.
    """
    gaps, wrong = [], []
    for number, (a, b) in enumerate(zip(reference, others)):
        if (at := first_difference(a, b)) is None:
            continue
        known, ours, theirs = likely_at(number, at), b["output_ids"][at], a["output_ids"][at]
        said = f"answer {number}, token {at}: {ours} for {theirs}"
        if missing := [token for token in (ours, theirs) if token not in known]:
            wrong.append(f"{said}, and {missing[0]} is not among the {len(known)} most likely")
            continue
        # Either sign: the reference's kernels may round otherwise when it is asked for the log-probs.
        gap = abs(known[theirs] - known[ours])
        gaps.append(gap)
        if not gap <= LIMIT:  # NaN is no rounding either
            wrong.append(f"{said}, {gap:.3f} nats apart")
    return Agreement(same_tokens(reference, others), max(gaps, default=None), wrong)
