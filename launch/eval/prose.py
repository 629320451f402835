"""Retrieval prompts of an exact length in tokens: facts between the sentences of the model's own prose.

The tasks are RULER's (arXiv 2404.06654); facts and questions are worded by :mod:`.sentences`:

    needle       one fact in prose, at a given depth
    multikey-1   four facts in prose, one asked for
    multikey-2   nothing but facts
    multikey-3   nothing but facts, with names of so few words that each differs from others by one
    multivalue   a name with two values; the answer tells both in their order
    multiquery   four facts in prose, two asked for
    tracking     four chains of names in prose; the answer follows one chain to its value
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from sglang_hisa.launch.eval import sentences as s
from sglang_hisa.launch.eval.tasks import HOPS, OTHERS, Sample

TASKS = ("needle", "multikey-1", "multikey-2", "multikey-3", "multivalue", "multiquery", "tracking")
FULL = ("multikey-2", "multikey-3")
TEXT = "prose.txt"
"""In a model's folder: the sentences that it was trained among, one a line."""
PAD = "."
"""One token, however many stand in a row: makes up what no whole sentence fills."""


class Prose:
    """The language of a trained model, by its folder."""

    def __init__(self, folder: Path) -> None:
        """Raises ``OSError`` without the model's text."""
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        lines = (folder / TEXT).read_text().splitlines()
        self._prose = [(f" {line}", self.tokens(f" {line}")) for line in lines]

    def tokens(self, text: str) -> int:
        """Of sentences one after the other it is the sum."""
        return len(self._tokenizer.encode(text).ids)

    def make(self, task: str, context: int, depth: float, seed: int) -> Sample:
        """A prompt of ``context`` tokens; equal arguments make equal prompts.

        Raises:
            ValueError: unknown task, or a context too short for it.
        """
        if task not in TASKS:
            raise ValueError(f"unknown task {task!r}; allowed: {', '.join(TASKS)}")
        source = random.Random(f"{task} {context} {depth} {seed}")
        facts, asked, answer = _said(task, context // self.tokens(s.fact(s.name(0), "0" * s.DIGITS)), source)
        room = context - self.tokens(asked)
        sizes = [self.tokens(fact) for fact in facts]
        if task in FULL:
            while sum(sizes) > room:
                facts.pop()
                sizes.pop()
        if sum(sizes) > room:
            raise ValueError(f"{context} tokens are too short for {task}")
        filler = self._filler(room - sum(sizes), source)
        if task in FULL:
            filler, facts = filler + facts[1:], facts[:1]
        places = [source.random() for _ in facts]
        if task != "tracking":
            places[0] = depth
        if task == "multivalue":
            places[1] = depth + (1 - depth) * places[1]
        return Sample(task, context, depth, _among(filler, facts, places) + asked, answer)

    def _filler(self, room: int, source: random.Random) -> list[str]:
        """Sentences that follow one another, ``room`` tokens with what pads them in front."""
        at, found = source.randrange(len(self._prose)), []
        while self._prose[at][1] <= room:
            text, size = self._prose[at]
            found.append(text)
            room, at = room - size, (at + 1) % len(self._prose)
        return [PAD * room, *found]


def _said(task: str, most: int, source: random.Random) -> tuple[list[str], str, str]:
    """Facts, of which there can be ``most``, a question, and its answer; what is asked for stands first."""
    if task == "tracking":
        return _chains(source)
    words = len(s.NOUNS)
    count = min(most, words**2) if task in FULL else 1 if task == "needle" else OTHERS + 1
    if task == "multikey-3":
        words = next(n for n in range(2, words + 1) if n**2 >= count)
    names = [s.name(code, words) for code in source.sample(range(words**2), count)]
    values = [_value(source) for _ in range(count)]
    if task == "multivalue":
        names[1] = names[0]
    facts = [s.fact(*pair) for pair in zip(names, values)]
    asked, answer = s.question(names[0]), f" {values[0]}"
    if task in ("multivalue", "multiquery"):
        answer += f"{s.END}{s.OF}{names[1]}{s.IS} {values[1]}"
    if task == "multiquery":
        asked = s.question_of_two(names[0], names[1])
    return facts, asked, answer


def _value(source: random.Random) -> str:
    return f"{source.randrange(10**s.DIGITS):0{s.DIGITS}}"


def _chains(source: random.Random) -> tuple[list[str], str, str]:
    """Chains of ``HOPS`` links to a value; the end of the first is asked for."""
    size, facts, answers = HOPS + 1, [], []
    names = [s.name(code) for code in source.sample(range(len(s.NOUNS) ** 2), (OTHERS + 1) * size)]
    for first in range(0, len(names), size):
        own = names[first : first + size]
        links = [s.link(own[i], own[i - 1]) for i in range(HOPS, 0, -1)]
        last = s.fact(own[0], _value(source))
        facts += [*links, last]
        answers.append("".join(links) + last)
    asked = names[HOPS]
    return facts, s.question(asked), answers[0].removeprefix(f"{s.OF}{asked}{s.IS}").removesuffix(s.END)


def _among(filler: list[str], facts: list[str], places: list[float]) -> str:
    """``facts`` at ``places``, shares of the filler; at equal ones in their order."""
    out, done = [], 0
    for place, fact in sorted(zip(places, facts), key=lambda pair: pair[0]):
        until = round(place * len(filler))
        out += [*filler[done:until], fact]
        done = until
    return "".join([*out, *filler[done:]])
