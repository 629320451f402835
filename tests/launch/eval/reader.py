"""An independent reader of facts in sentences: answers a question by what the text before it says."""

from __future__ import annotations

import re

FACT = "The special magic number for "


def answer_to(text: str, question: str) -> str:
    """How ``question``, up to its answer's beginning, goes on; both values of a name that has two."""
    single = re.search(r"What is the special magic number for ([a-z]+ [a-z]+)\?", question)
    if single is None:
        both = re.search(r"for ([a-z]+ [a-z]+) and ([a-z]+ [a-z]+)\?", question)
        assert both
        return _told(text, both[1]) + _told(text, both[2], begun=False)
    return _told(text, single[1])


def _told(text: str, name: str, begun: bool = True) -> str:
    """What the text tells of a name; ``begun``: the first sentence stands in the question up to "is"."""
    found = re.findall(rf"{FACT}{name} is ((?:that for )?[a-z0-9 ]+)\.", text)
    assert found
    out = ". ".join([f"{FACT}{name} is {one}" for one in found])
    if (linked := re.match("that for (.*)", found[0])) is not None:
        (_,) = found
        out += ". " + _told(text, linked[1], begun=False).removeprefix(". ")
    return out.removeprefix(f"{FACT}{name} is") if begun else f". {out}"
