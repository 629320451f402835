"""English prose that every Python brings along: the help topics of its language reference (PSF licence)."""

from __future__ import annotations

import re
from pydoc_data.topics import topics

_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;:'()\"-]{20,230}\.")
"""Words and punctuation alone: no code, and no digits, which stand in facts only."""


def sentences() -> tuple[str, ...]:
    """Every sentence once, in the order of the topics' names. Other Pythons say other things."""
    found: dict[str, None] = {}
    for topic in sorted(topics):
        for paragraph in re.split(r"\n\s*\n", topics[topic]):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if _SENTENCE.fullmatch(sentence) and sentence.count(" ") >= 4:
                    found[sentence] = None
    return tuple(found)
