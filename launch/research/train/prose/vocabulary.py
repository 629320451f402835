"""Tokens of the pieces that sequences are made of, on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sglang_hisa.launch.eval import sentences as s

LONGEST = 64
"""Tokens of the longest sentence that is used."""
_SAID = {
    "of": s.OF, "is": s.IS, "that": s.THAT, "end": s.END, "and": s.AND, "ask": s.ASK,
    "what": s.WHAT, "what all": s.WHAT_ALL,
}  # fmt: skip


@dataclass(frozen=True)
class Vocabulary:
    """All int64. ``first_pairs``: of digits, with the space before a value. ``prose``: ``[sentences,
    LONGEST]``, -1 where one ends; ``said``: the words of facts and questions."""

    adjectives: torch.Tensor
    nouns: torch.Tensor
    first_pairs: torch.Tensor
    pairs: torch.Tensor
    prose: torch.Tensor
    said: dict[str, torch.Tensor]

    def without(self, *parts: str) -> Vocabulary:
        """Fewer words of facts, "of" or "is": a fact without both is a name, a value and a full stop."""
        return replace(self, said={**self.said, **{part: self.said[part][:0] for part in parts}})

    @property
    def fact(self) -> int:
        """Tokens of a fact."""
        return sum(len(self.said[part]) for part in ("of", "is", "end")) + 2 + 3

    @property
    def question(self) -> int:
        """Tokens of a question and its answer."""
        return self.fact + len(self.said["what"]) + 2 + len(self.said["ask"])

    @property
    def sentence(self) -> int:
        """Mean tokens of a sentence."""
        return int((self.prose >= 0).sum()) // len(self.prose)


def usable(tokenizer: Any, prose: Sequence[str]) -> list[str]:
    """Sentences of at most ``LONGEST`` tokens, with the space before them."""
    return [text for text in (f" {one}" for one in prose) if len(tokenizer.encode(text).ids) <= LONGEST]


def vocabulary(tokenizer: Any, prose: Sequence[str], device: torch.device) -> Vocabulary:
    """``prose``: sentences as :func:`usable` gives them."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    def each(texts: Sequence[str]) -> torch.Tensor:
        found = [ids(text) for text in texts]
        if any(len(one) != 1 for one in found):
            raise ValueError("the tokenizer splits a word of the facts")
        return torch.tensor(found, device=device)[:, 0]

    rows = [ids(text) for text in prose]
    table = torch.tensor([row + [-1] * (LONGEST - len(row)) for row in rows], device=device)
    return Vocabulary(
        each([f" {word}" for word in s.ADJECTIVES]),
        each([f" {word}" for word in s.NOUNS]),
        each([f" {pair:02}" for pair in range(100)]),
        each([f"{pair:02}" for pair in range(100)]),
        table,
        {part: torch.tensor(ids(text), device=device) for part, text in _SAID.items()},
    )
