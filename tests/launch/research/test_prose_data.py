"""Training sequences in prose: every marked token is what an independent reader of the text answers."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from typing import Any

import pytest
import torch

from sglang_hisa.launch.eval.sentences import ADJECTIVES, NOUNS
from sglang_hisa.launch.research.train.prose import course, data, text
from sglang_hisa.launch.research.train.prose.course import FEW, PROSE, SHAPE, mix_for
from sglang_hisa.launch.research.train.prose.tokens import make_tokenizer
from sglang_hisa.launch.research.train.prose.vocabulary import Vocabulary, vocabulary
from tests.launch.eval.reader import answer_to

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def language() -> tuple[Any, tuple[str, ...]]:
    return course.language()


@pytest.fixture(scope="module")
def words(language: tuple[Any, tuple[str, ...]]) -> Vocabulary:
    return vocabulary(*language, CPU)


@pytest.mark.parametrize(
    "mix",
    [
        data.Mix(0.9, 0.5),
        data.Mix(0.1, 0.15),
        data.Mix(0.5, 0.5, linked=0.5),
        data.Mix(0.5, 0.5, doubled=0.5, alphabet=12),
        data.Mix(0.8, 0.5, paired=0.5),
    ],
    ids=str,
)
def test_every_answer_is_what_the_text_says(
    mix: data.Mix, language: tuple[Any, tuple[str, ...]], words: Vocabulary
) -> None:
    tokens, marks = data.retrieval(words, 4, 787, mix, torch.Generator().manual_seed(3))
    assert tokens.shape == marks.shape == (4, 787) and tokens.min() >= 0
    kinds = set()
    for row, wanted in zip(tokens.tolist(), marks.tolist()):
        spans = [""]
        for token, marked in zip(row, wanted):
            if marked != (len(spans) % 2 == 0):
                spans.append("")
            spans[-1] += language[0].decode([token])
        said = spans[0].partition(" What ")[0]
        assert language[0].decode(row) == "".join(spans) and "magic" in said
        questions = list(zip(spans[::2], spans[1::2]))[:-1]  # the last one may be cut off
        assert len(questions) >= 4
        for question, answer in questions:
            assert answer == answer_to(said, question)
            kinds.add((answer.count(" that for ") > 0, answer.count("special")))
    chained = any(links for links, _ in kinds)
    assert chained == bool(mix.linked)
    assert ((False, 1) in kinds) == bool(mix.doubled or mix.paired)


def test_terse_facts_are_told_again(language: tuple[Any, tuple[str, ...]], words: Vocabulary) -> None:
    """The first stage's: no wording, few words; all of the telling again is marked."""
    tokens, marks = data.retrieval(words.without("of", "is"), 60, 64, FEW, torch.Generator().manual_seed(1))
    pairs, names, same = set(), set(), 0
    for row, wanted in zip(tokens.tolist(), marks.tolist()):
        told = re.findall(r" (\w+) (\w+) (\d\d)(\d\d)(\d\d)\.", language[0].decode(row))
        first, again = told[:5], told[5:]
        assert len({fact[:2] for fact in first}) == len(first) == len(again) == 5 and set(again) <= set(first)
        said = language[0].decode([token for token, marked in zip(row, wanted) if marked])
        assert said.startswith("".join(f" {one} {two} {a}{b}{c}." for one, two, a, b, c in again))
        same += sum(one == two for one, two in pairwise(again))
        for one, two, *digits in told:
            pairs |= set(digits)
            names |= {ADJECTIVES.index(one), NOUNS.index(two)}
    assert pairs == {f"{pair:02}" for pair in range(10)} and names == set(range(24))
    # Any fact may follow any: in turns, the last ones would be known by what is left.
    assert same / (60 * 4) == pytest.approx(1 / 5, abs=0.08)


def test_tokens_are_words_pairs_of_digits_and_pieces() -> None:
    prose = text.sentences()
    assert len(prose) > 500 and not any(re.search(r"\d|\n", one) for one in prose)
    made = make_tokenizer(prose, 777)
    assert made.get_vocab_size() == 777 and made.to_str() == make_tokenizer(prose, 777).to_str()
    assert made.encode(" fox is 0481592.").tokens == ["Ġfox", "Ġis", "Ġ04", "81", "59", "2", "."]
    whole = "".join(f" {one}" for one in prose)
    assert made.decode(made.encode(whole).ids) == whole
    sizes = [len(made.encode(f" {one}").ids) for one in prose]
    assert sum(sizes) == len(made.encode(whole).ids) < len(whole) / 2


def test_batches_are_of_the_stages_size_and_plain_ones_are_the_goal(words: Vocabulary) -> None:
    tok, source, noise = course.language()[0], random.Random(1), torch.Generator().manual_seed(1)
    for stage in PROSE.recipe[:6]:
        tokens, marks, goal = PROSE.batch(stage, source, noise)
        assert tokens.numel() == stage.tokens // stage.length * stage.length and tokens.max() < SHAPE.vocab
        if goal is not None:  # the first pair of a value, which nothing before it in the answer tells
            assert goal.any() and not (goal & ~marks).any()
            assert {tok.decode([token])[0] for token in tokens[goal].tolist()} == {" "}
            told = int(torch.isin(tokens[marks], words.nouns).sum()) or int(marks.sum()) / 3
            assert int(goal.sum()) == pytest.approx(told, rel=0.2)
    mixes = [mix_for(2048, random.Random(seed)) for seed in range(60)]
    assert min(mix.density for mix in mixes) < 0.1 and max(mix.density for mix in mixes) > 0.9
    assert any(m.linked for m in mixes) and any(m.doubled for m in mixes) and any(m.paired for m in mixes)
