"""An independent reader of the retrieval grammar: answers a question by what the text before it says."""

from __future__ import annotations

import re

from sglang_hisa.launch.common import models


def byte_text(ids: list[int]) -> str:
    """Text of token ids, by the table of the tokenizer that the models are written with."""
    from tokenizers import pre_tokenizers

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    return "".join(pieces[i - 3] for i in ids).replace("Ġ", " ")


def solve(haystack: str, key: str) -> str:
    """What follows ``?key``: the names on the way, and the value; of two records both."""
    found = re.findall(rf"(?<![A-Z]){key}([A-Z]{{3}}|\d\d);", haystack)
    if len(found) == 2:
        return f"{found[0]}{key}{found[1]}"
    (one,) = found
    return one if one.isdigit() else one + solve(haystack, one)


def tokenizer_ids(folder, text: str) -> list[int]:
    """Ids of ``text`` by the written tokenizer."""
    from tokenizers import Tokenizer

    models.write_tokenizer(folder, 320, 4096)
    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
