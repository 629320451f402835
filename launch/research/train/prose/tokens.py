"""The second model's tokens: words of facts and names whole, digits in pairs, prose in pieces of words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sglang_hisa.launch.eval import sentences as s

SPECIAL = ("<unk>", "<s>", "</s>")
PIECES = r" ?[A-Za-z]+| ?\d\d?| ?[^A-Za-z\d\s]|\s"
"""What is one token where the vocabulary has it."""


def _whole() -> list[str]:
    """Texts that are one token each."""
    words = (s.OF + s.IS + s.THAT + s.WHAT + s.WHAT_ALL + s.AND).split()
    words += [*s.ADJECTIVES, *s.NOUNS]
    return [
        *(f" {word}" for word in words),
        s.END,
        s.ASK,
        *(f"{space}{pair:02}" for space in (" ", "") for pair in range(100)),
    ]


def make_tokenizer(prose: Sequence[str], vocab: int) -> Any:
    """A byte-pair tokenizer of ``vocab`` tokens for ASCII text; equal arguments make equal tokenizers."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(unk_token=SPECIAL[0]))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    whole = [text.replace(" ", "Ġ") for text in _whole()]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(set(whole)),
        special_tokens=list(SPECIAL),
        initial_alphabet=[*map(chr, range(33, 127)), "Ġ"],
        show_progress=False,
    )
    learner.train_from_iterator(prose, trainer)
    learned = json.loads(learner.to_str())["model"]
    pieces, merges = learned["vocab"], [tuple(pair) for pair in learned["merges"]]
    for text in whole:
        pieces.setdefault(text, len(pieces))
    # Words that the prose has taught already leave room.
    pieces |= {f"<extra{number}>": number for number in range(len(pieces), vocab)}
    tokenizer = Tokenizer(models.BPE(pieces, merges, unk_token=SPECIAL[0], ignore_merges=True))
    tokenizer.pre_tokenizer = learner.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
