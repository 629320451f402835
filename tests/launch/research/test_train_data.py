"""Training sequences: every marked token is what an independent reader answers."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch

from sglang_hisa.launch.research.train import data, grammar
from sglang_hisa.launch.research.train.recipe import RECIPE, mix_for, share
from tests.launch.eval.solver import byte_text, solve, tokenizer_ids


def noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tokens_are_the_tokenizers(tmp_path: Path) -> None:
    text = "".join(map(chr, range(32, 127)))
    assert [grammar.token(char) for char in text] == tokenizer_ids(tmp_path, text)


@pytest.mark.parametrize(
    ("length", "mix"),
    [
        (64, data.Mix(0.9, 0.5)),
        (333, data.Mix(0.05, 0.3, linked=0.4)),
        (1027, data.Mix(0.9, 0.4, linked=0.5, alphabet=10)),
        (700, data.Mix(0.5, 0.4, doubled=0.5)),
    ],
)
def test_every_answer_is_in_the_haystack(length: int, mix: data.Mix) -> None:
    tokens, marks = data.retrieval(5, length, mix, noise(length))
    assert tokens.shape == marks.shape == (5, length)
    asked = kinds = 0
    for row, wanted in zip(tokens.tolist(), marks.tolist()):
        text = byte_text(row)
        start = text.index("?")
        assert not any(wanted[:start])
        for question in re.finditer(r"\?([A-Z]{3})([^;?]+);", text):
            key, answer = question.groups()
            assert answer == solve(text[:start], key)
            marked = [i for i in range(*question.span()) if wanted[i]]
            assert marked == list(range(question.start(2), question.end()))
            asked += 1
            kinds |= 1 if answer[0].isalpha() else 2
            kinds |= 4 if len(re.findall(r"\d\d", answer)) == 2 else 0
    assert asked >= 5 * length * mix.questions / 22
    assert kinds == 2 | (1 if mix.linked else 0) | (4 if mix.doubled else 0)


def test_copies_are_copies() -> None:
    tokens, marks = data.copying(3, 151, noise(1))
    assert (tokens[:, 75:150] == tokens[:, :75]).all() and (tokens[0] != tokens[1]).any()
    assert not marks[:, : 75 + grammar.KEY].any() and marks[:, 75 + grammar.KEY + 1 :].all()


def test_the_recipe_keeps_its_time_and_order() -> None:
    left = 360.0
    for number, stage in enumerate(RECIPE):
        taken = share(RECIPE, number, left)
        assert taken == pytest.approx(360 * stage.weight / sum(one.weight for one in RECIPE))
        left -= taken
    assert left == pytest.approx(0)
    # What the first stages save, all later ones get.
    assert share(RECIPE, 5, 360) > 1.5 * share(RECIPE, 0, 360) * RECIPE[5].weight / RECIPE[0].weight
    kinds = [stage.kind for stage in RECIPE]
    assert kinds == sorted(kinds, key=["dense", "index", "sparse"].index)
    assert max(stage.length for stage in RECIPE) == 32768
    mixes = [mix_for(2048, random.Random(seed)) for seed in range(60)]
    assert any(mix.linked for mix in mixes) and any(mix.doubled for mix in mixes)
    assert min(mix.density for mix in mixes) < 0.05 and max(mix.density for mix in mixes) > 0.9
