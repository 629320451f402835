"""Training sequences: a haystack of records and distractors, then many questions about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_hisa.launch.research.train import grammar as g

HOPS = 3
"""Most links from a name to its record."""
_WIDTH = 1 + (HOPS + 1) * g.KEY + g.VALUE + 1
_RECORD = g.KEY + g.VALUE + 1
_WORD = 9
"""Mean length of a word and its space, about; rounded up, so that no question is cut off."""


@dataclass(frozen=True)
class Mix:
    """What a batch holds.

    ``density``: share of the haystack that is records; ``questions``: share of the sequence that is
    questions; ``linked``: share of keys that are links; ``doubled``: share that have a second record.
    """

    density: float
    questions: float = 0.4
    linked: float = 0.0
    doubled: float = 0.0
    alphabet: int = 26


@dataclass(frozen=True)
class Facts:
    """What the haystack says, each ``[rows, keys]``: key tokens ``[rows, keys, KEY]``, two values below 100,
    whether key ``i`` is another name of key ``i - 1``, and whether it has a second record."""

    names: torch.Tensor
    values: tuple[torch.Tensor, torch.Tensor]
    linked: torch.Tensor
    doubled: torch.Tensor


def _item(parts: list[torch.Tensor]) -> torch.Tensor:
    item = torch.cat(parts, dim=-1)
    return torch.nn.functional.pad(item, (0, _WIDTH - item.shape[-1]), value=-1)


def draw(rows: int, count: int, mix: Mix, random: torch.Generator) -> Facts:
    """``count`` different keys a row, with chains of at most ``HOPS`` links that end at a record."""
    made = {"generator": random, "device": random.device}
    codes = torch.rand((rows, mix.alphabet**g.KEY), **made).topk(count, dim=1).indices
    values = torch.randint(0, 100, (2, rows, count), **made)
    chance = torch.rand((2, rows, count), **made)
    may_link = torch.arange(count, device=random.device) % (HOPS + 1) > 0
    linked = (chance[0] < mix.linked) & may_link
    # Two values at the end of a chain would leave the chain's answer open.
    alone = ~linked & ~linked.roll(-1, dims=1)
    names = g.letters(codes, mix.alphabet)
    return Facts(names, (values[0], values[1]), linked, alone & (chance[1] < mix.doubled))


def words(rows: int, count: int, random: torch.Generator) -> torch.Tensor:
    """Lower-case words of 3 to 12 letters and a space, items ``[rows, count, _WIDTH]``."""
    made = {"generator": random, "device": random.device}
    text = torch.randint(0, 26, (rows, count, _WIDTH), **made) + g.LOWER
    at = torch.arange(_WIDTH, device=random.device)
    size = torch.randint(3, 13, (rows, count, 1), **made)
    return text.masked_fill(at == size, g.SPACE).masked_fill(at > size, -1)


def haystack(facts: Facts, filler: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Records, links and filler in random order, items ``[rows, n, _WIDTH]``.

    Of two records of one key the one with the first value stands first.
    """
    made = {"generator": random, "device": random.device}
    names, end = facts.names, g.marks(facts.linked.long(), g.END)
    link = _item([names, names.roll(1, dims=1), end])
    first, second = (_item([names, g.digits(value), end]) for value in facts.values)
    first = torch.where(facts.linked[..., None], link, first)
    second = second.masked_fill(~facts.doubled[..., None], -1)
    place = torch.rand((2, *facts.linked.shape), **made).sort(dim=0).values
    among = torch.rand(filler.shape[:2], **made)
    order = torch.cat((place[0], place[1], among), dim=1).argsort(dim=1)[..., None]
    items = torch.cat((first, second, filler), dim=1)
    return items.gather(1, order.expand_as(items))


def questions(facts: Facts, total: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """``total`` questions, each key about equally often: items and which of their tokens are answers."""
    rows, count = facts.linked.shape
    made = {"generator": random, "device": random.device}
    rounds = [torch.rand((rows, count), **made).argsort(dim=1) for _ in range(-(-total // count))]
    about = torch.cat(rounds, dim=1)[:, :total]

    def names(at: torch.Tensor) -> torch.Tensor:
        return facts.names.gather(1, at[..., None].expand(-1, -1, g.KEY))

    ask, end = g.marks(about, g.ASK), g.marks(about, g.END)
    parts, at, linked = [ask, names(about)], about, facts.linked.gather(1, about)
    for _ in range(HOPS):
        at = torch.where(linked, at - 1, at)
        parts.append(names(at).masked_fill(~linked[..., None], -1))
        linked = linked & facts.linked.gather(1, at)
    first, second = (g.digits(value.gather(1, at)) for value in facts.values)
    item = _item([*parts, first, end])
    pair = _item([ask, names(about), first, names(about), second, end])
    item = torch.where(facts.doubled.gather(1, about)[..., None], pair, item)
    wanted = item >= 0
    wanted[..., : 1 + g.KEY] = False
    return item, wanted


def retrieval(rows: int, length: int, mix: Mix, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens int64 and answer marks bool, both ``[rows, length]``, on the generator's device.

    Every answer is the one that the haystack defines.
    """
    asked = max(_WIDTH, int(length * mix.questions))
    room = length - asked
    count = max(2, min(int(room * mix.density) // _RECORD, mix.alphabet**g.KEY))
    facts = draw(rows, count, mix, random)
    filler = words(rows, max(1, (room - count * _RECORD) // _WORD), random)
    hay = haystack(facts, filler, random)
    asks, wanted = questions(facts, -(-asked // (_RECORD + 1)), random)
    marks = torch.cat((torch.zeros_like(hay, dtype=torch.bool), wanted), dim=1)
    return g.lay_out(torch.cat((hay, asks), dim=1), marks, length)


def copying(rows: int, length: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A random text and once more the same; the second is to be predicted, but for its first tokens."""
    half = length // 2
    text = torch.randint(0, 26, (rows, half), generator=random, device=random.device) + g.A
    tokens = torch.cat((text, text, text[:, : length - 2 * half]), dim=1)
    marks = torch.zeros_like(tokens, dtype=torch.bool)
    marks[:, half + g.KEY + 1 :] = True
    return tokens, marks
