"""Training sequences: prose with facts between its sentences, then many questions about them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_hisa.launch.research.train.grammar import lay_out
from sglang_hisa.launch.research.train.prose.vocabulary import Vocabulary

HOPS = 3
"""Most links from a name to its value."""


@dataclass(frozen=True)
class Mix:
    """What a batch holds.

    ``density``: share of the haystack that is facts. ``questions``: share of the sequence that is questions;
    ``bare``: they are facts told again, nothing is asked, and every token of them is an answer.
    ``linked``: share of names that are linked to another; ``doubled``: share that have a second value.
    ``paired``: share of questions that ask for two names. ``alphabet``: words of each kind in names;
    ``pairs``: of digits that values are made of.
    """

    density: float
    questions: float = 0.5
    bare: bool = False
    linked: float = 0.0
    doubled: float = 0.0
    paired: float = 0.0
    alphabet: int = 80
    pairs: int = 100


@dataclass(frozen=True)
class Facts:
    """What the haystack says, each ``[rows, names]``: codes of names, two values (tokens ``[.., 3]``),
    whether name ``i`` has the value of name ``i - 1``, and whether it has a second value."""

    names: torch.Tensor
    values: tuple[torch.Tensor, torch.Tensor]
    linked: torch.Tensor
    doubled: torch.Tensor


def draw(v: Vocabulary, rows: int, count: int, mix: Mix, random: torch.Generator) -> Facts:
    """``count`` different names a row, with chains of at most ``HOPS`` links that end at a value."""
    made = {"generator": random, "device": random.device}
    codes = torch.rand((rows, mix.alphabet**2), **made).topk(count, dim=1).indices
    digits = torch.randint(0, mix.pairs, (2, rows, count, 3), **made)
    values = torch.cat((v.first_pairs[digits[..., :1]], v.pairs[digits[..., 1:]]), dim=-1)
    chance = torch.rand((2, rows, count), **made)
    may_link = torch.arange(count, device=random.device) % (HOPS + 1) > 0
    linked = (chance[0] < mix.linked) & may_link
    # Two values at the end of a chain would leave the chain's answer open.
    alone = ~linked & ~linked.roll(-1, dims=1)
    names = torch.stack((v.adjectives[codes // mix.alphabet], v.nouns[codes % mix.alphabet]), dim=-1)
    return Facts(names, (values[0], values[1]), linked, alone & (chance[1] < mix.doubled))


def _say(v: Vocabulary, parts: list[str | torch.Tensor]) -> torch.Tensor:
    """Texts and tokens ``[rows, n, w]`` one after the other, items ``[rows, n, sum of w]``."""
    shape = next(part.shape[:2] for part in parts if isinstance(part, torch.Tensor))
    said = [p if isinstance(p, torch.Tensor) else v.said[p].expand(*shape, -1) for p in parts]
    return torch.cat(said, dim=-1)


def _stack(items: list[torch.Tensor]) -> torch.Tensor:
    """Items of several widths in one tensor: -1 fills the shorter ones."""
    width = max(item.shape[-1] for item in items)
    return torch.cat([torch.nn.functional.pad(i, (0, width - i.shape[-1]), value=-1) for i in items], dim=1)


def haystack(v: Vocabulary, facts: Facts, room: int, random: torch.Generator) -> torch.Tensor:
    """Facts and links in random order between sentences that follow one another, as items of at most ``room``
    tokens if the facts leave any.

    Of two values of one name the first stands first.
    """
    made = {"generator": random, "device": random.device}
    other = facts.names.roll(1, dims=1)
    link = _say(v, ["of", facts.names, "is", "that", other, "end"])
    first, second = (_say(v, ["of", facts.names, "is", one, "end"]) for one in facts.values)
    link = link.masked_fill(~facts.linked[..., None], -1)
    first = first.masked_fill(facts.linked[..., None], -1)
    second = second.masked_fill(~facts.doubled[..., None], -1)
    told = _stack([link, first, second])
    left = room - (told >= 0).sum(dim=(1, 2))[:, None]

    rows, filler = len(told), 2 * room // v.sentence
    start = torch.randint(0, len(v.prose), (rows, 1), **made)
    text = v.prose[(start + torch.arange(filler, device=random.device)) % len(v.prose)]
    fits = (text >= 0).sum(dim=2).cumsum(dim=1) <= left
    # What does not fit comes last, where it takes no place from the rest.
    among = torch.rand((rows, filler), **made).masked_fill(~fits, 2.0)
    among = among.sort(dim=1).values
    place = torch.rand((2, *facts.linked.shape), **made).sort(dim=0).values
    order = torch.cat((place[0], place[0], place[1], among), dim=1).argsort(dim=1)[..., None]
    items = _stack([told, text.masked_fill(~fits[..., None], -1)])
    return items.gather(1, order.expand_as(items))


def questions(
    v: Vocabulary, facts: Facts, total: int, mix: Mix, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """``total`` questions: items and which of their tokens are answers.

    Each is about any of the names. In turns, the last ones would be answered by what is left, and a model
    that learns this does without the names.
    """
    rows, count = facts.linked.shape
    made = {"generator": random, "device": random.device}
    about = torch.randint(0, count, (rows, total), **made)

    def of(table: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return table.gather(1, at[..., None].expand(-1, -1, table.shape[-1]))

    first, second = facts.values
    name, linked = of(facts.names, about), facts.linked.gather(1, about)
    begun: list[str | torch.Tensor] = ["of", name, "is"]
    asked = _say(v, begun if mix.bare else ["what", name, "ask", *begun])
    plain, at = [asked], about
    for _ in range(HOPS):
        at = torch.where(linked, at - 1, at)
        step = _say(v, ["that", of(facts.names, at), "end", "of", of(facts.names, at), "is"])
        plain.append(step.masked_fill(~linked[..., None], -1))
        linked = linked & facts.linked.gather(1, at)
    plain.append(_say(v, [of(first, at), "end"]))
    twice = facts.doubled.gather(1, about)
    again = _say(v, [of(first, about), "end", "of", name, "is", of(second, about), "end"])

    # Of two names: the first one's value, the sentence's beginning for the second, its value.
    other = about.roll(1, dims=1)
    simple = ~(facts.linked | facts.doubled)
    both = simple.gather(1, about) & simple.gather(1, other) & (other != about)
    both &= torch.rand(about.shape, **made) < mix.paired
    two = of(facts.names, other)
    ask_two = _say(v, ["what all", name, "and", two, "ask", "of", name, "is"])
    tell_two = _say(v, [of(first, about), "end", "of", two, "is", of(first, other), "end"])

    kinds = [
        (torch.cat(plain, dim=-1), 0 if mix.bare else asked.shape[-1], ~twice & ~both),
        (torch.cat((asked, again), dim=-1), asked.shape[-1], twice),
        (torch.cat((ask_two, tell_two), dim=-1), ask_two.shape[-1], both),
    ]
    items, marks = [], []
    for item, begin, kept in kinds:
        item = item.masked_fill(~kept[..., None], -1)
        wanted = item >= 0
        wanted[..., :begin] = False
        if not mix.bare:  # the full stop after the last value is no answer
            wanted &= wanted.cumsum(dim=-1) != wanted.sum(dim=-1, keepdim=True)
        items.append(item)
        marks.append(wanted)
    # One question's three kinds follow one another, two of them empty.
    width = max(item.shape[-1] for item in items)
    padded = [torch.nn.functional.pad(i, (0, width - i.shape[-1]), value=-1) for i in items]
    marked = [torch.nn.functional.pad(m, (0, width - m.shape[-1])) for m in marks]
    return torch.stack(padded, dim=2).flatten(1, 2), torch.stack(marked, dim=2).flatten(1, 2)


def retrieval(
    v: Vocabulary, rows: int, length: int, mix: Mix, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 and answer marks bool, both ``[rows, length]``, on the generator's device.

    Every answer is the one that the haystack defines.
    """
    one = v.fact if mix.bare else v.question
    asked = max(one, int(length * mix.questions))
    room = length - asked
    count = max(2, min(int(room * mix.density) // v.fact, mix.alphabet**2))
    facts = draw(v, rows, count, mix, random)
    hay = haystack(v, facts, room, random)
    asks, wanted = questions(v, facts, -(-asked // one), mix, random)
    marks = torch.zeros_like(hay, dtype=torch.bool)
    width = max(hay.shape[-1], asks.shape[-1])
    pad = torch.nn.functional.pad
    items = torch.cat([pad(i, (0, width - i.shape[-1]), value=-1) for i in (hay, asks)], dim=1)
    marks = torch.cat([pad(m, (0, width - m.shape[-1])) for m in (marks, wanted)], dim=1)
    return lay_out(items, marks, length, int(v.said["end"]))
