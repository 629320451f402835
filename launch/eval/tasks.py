"""Retrieval prompts of an exact length, in the grammar of launch/research/train/grammar.py.

The tasks are RULER's (arXiv 2404.06654), in that grammar:

    needle       one record in words, at a given depth
    multikey-1   four records in words, one asked for
    multikey-2   nothing but records
    multikey-3   nothing but records, with keys over so few letters that each differs from others by one
    tracking     four chains of names in words; the answer follows one chain to its value
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

TASKS = ("needle", "multikey-1", "multikey-2", "multikey-3", "tracking")
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the asked record, as a share of the haystack; ``tracking`` spreads its links over the whole."""
KEY, HOPS, OTHERS = 3, 3, 3


@dataclass(frozen=True)
class Sample:
    """One question. ``context`` is the prompt's length in tokens; here, where each is a byte, in bytes."""

    task: str
    context: int
    depth: float
    prompt: str
    answer: str


def _value(source: random.Random) -> str:
    return f"{source.randrange(100):02}"


def _keys(count: int, letters: int, source: random.Random) -> list[str]:
    """``count`` different keys over the first ``letters`` letters."""
    codes = source.sample(range(letters**KEY), count)
    alphabet = string.ascii_uppercase
    return [
        alphabet[c // letters**2] + alphabet[c // letters % letters] + alphabet[c % letters] for c in codes
    ]


def _words(size: int, source: random.Random) -> list[str]:
    """Words, each with its space, of ``size`` bytes or a little more."""
    made, total = [], 0
    while total < size:
        word = "".join(source.choices(string.ascii_lowercase, k=source.randint(3, 12))) + " "
        made.append(word)
        total += len(word)
    return made


def _assemble(pieces: list[str], filler: list[str], places: list[float], room: int) -> str:
    """``pieces`` at ``places`` (shares) among the filler, cut to ``room`` bytes at the filler's expense."""
    need = room - sum(map(len, pieces))
    kept, total = [], 0
    for item in filler:
        if total + len(item) > need:
            break
        kept.append(item)
        total += len(item)
    out, done = [], 0
    for place, piece in sorted(zip(places, pieces)):
        until = round(place * len(kept))
        out += [*kept[done:until], piece]
        done = until
    out += kept[done:]
    rest = room - sum(map(len, out))
    return "x" * (rest - 1) + " " * (rest > 0) + "".join(out)


def make(task: str, context: int, depth: float, seed: int) -> Sample:
    """A prompt of ``context`` bytes; equal arguments make equal prompts.

    Raises:
        ValueError: unknown task, or a context too short for it.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; allowed: {', '.join(TASKS)}")
    if context < 128:
        raise ValueError(f"{context} bytes are too short; at least 128")
    source = random.Random(f"{task} {context} {depth} {seed}")
    room = context - 1 - KEY
    if task == "tracking":
        return _tracking(context, depth, room, source)
    others = OTHERS if task == "multikey-1" else 0
    records = room // 6 - 1 if task in ("multikey-2", "multikey-3") else others + 1
    letters = 26
    if task == "multikey-3":
        letters = next(n for n in range(2, 27) if n**KEY >= records)
    lines = [f"{key}{_value(source)};" for key in _keys(records, letters, source)]
    if task in ("multikey-2", "multikey-3"):
        text = _assemble(lines[:1], lines[1:], [depth], room)
    else:
        places = [depth, *(source.random() for _ in range(others))]
        text = _assemble(lines, _words(room, source), places, room)
    key, value = lines[0][:KEY], lines[0][KEY:-1]
    return Sample(task, context, depth, f"{text}?{key}", value)


def _tracking(context: int, depth: float, room: int, source: random.Random) -> Sample:
    names = _keys((OTHERS + 1) * (HOPS + 1), 26, source)
    lines, answer = [], ""
    for chain in range(OTHERS + 1):
        own = names[chain * (HOPS + 1) : (chain + 1) * (HOPS + 1)]
        value = _value(source)
        lines += [f"{own[0]}{value};", *(f"{own[i]}{own[i - 1]};" for i in range(1, HOPS + 1))]
        answer = answer or "".join(own[HOPS - 1 :: -1]) + value
    places = [source.random() for _ in lines]
    text = _assemble(lines, _words(room, source), places, room)
    return Sample("tracking", context, depth, f"{text}?{names[HOPS]}", answer)
