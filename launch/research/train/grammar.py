"""The text of the retrieval tasks, in tokens of the byte-level tokenizer.

    ABC12;      the value of key ABC is 12 (a record)
    DEFABC;     DEF is another name of ABC (a link)
    ?ABC12;     a question, and its answer
    ?DEFABC12;  a question about a link: the answer names each step
    ?ABC12ABC57;  a question about a key with two records: the answer gives them in order

Between records stand lower-case words, or other records: the distractors.
"""

from __future__ import annotations

import torch

KEY, VALUE = 3, 2
"""Letters of a key, digits of a value."""


def token(char: str) -> int:
    """Token of a printable ASCII character, as ``models.make_tiny``'s tokenizer numbers them: after three
    special tokens, printable bytes in order, then the others."""
    return 3 + (ord(char) - 33 if char != " " else 94 + 12 + 82 + 32)


A, ZERO, LOWER, SPACE, END, ASK = (token(char) for char in "A0a ;?")


def letters(codes: torch.Tensor, alphabet: int) -> torch.Tensor:
    """Keys of ``codes`` int64 ``[...]`` below ``alphabet ** KEY`` -> tokens ``[..., KEY]``."""
    powers = alphabet ** torch.arange(KEY - 1, -1, -1, device=codes.device)
    return A + codes[..., None] // powers % alphabet


def digits(values: torch.Tensor) -> torch.Tensor:
    """Values below 100 -> tokens ``[..., VALUE]``."""
    powers = 10 ** torch.arange(VALUE - 1, -1, -1, device=values.device)
    return ZERO + values[..., None] // powers % 10


def marks(like: torch.Tensor, value: int) -> torch.Tensor:
    """A column ``[..., 1]`` of one token for codes ``[...]``."""
    return torch.full_like(like[..., None], value)


def lay_out(
    items: torch.Tensor, answers: torch.Tensor, length: int, fill: int = SPACE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put items one after the other and cut at ``length``.

    Args:
        items: tokens int64 ``[b, n, w]``; -1 where an item is shorter than ``w``.
        answers: bool of that shape: tokens to be predicted.

    Returns:
        tokens int64 ``[b, length]`` (``fill`` where the items end early), answers bool ``[b, length]``.
    """
    batch = items.shape[0]
    flat, wanted = items.flatten(1), answers.flatten(1)
    real = flat >= 0
    at = (real.cumsum(dim=1) - 1).masked_fill(~real, length).clamp_max(length)
    tokens = torch.full((batch, length + 1), fill, device=flat.device).scatter(1, at, flat)
    marked = torch.zeros((batch, length + 1), dtype=torch.bool, device=flat.device).scatter(1, at, wanted)
    return tokens[:, :length], marked[:, :length]
