"""Bodies of SGLang's functions that HISA was written for, by a hash of their syntax trees (``bodies.json``).

``python -m sglang_hisa.patches.bodies PATH`` adds those of another SGLang (:mod:`.bodies`).
"""

from __future__ import annotations

import ast
import functools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_hisa.patches import syntax
from sglang_hisa.patches.places import Row

FILE = Path(__file__).with_name("bodies.json")
_DIGITS = 6
"""Of the digest of one statement: it only tells which statements of an unknown body are new."""


@dataclass(frozen=True)
class Unknown:
    """A function whose body is none of those that HISA knows."""

    target: str
    relies: str
    """What HISA takes for granted inside."""
    change: str
    """What differs from the nearest known body, in words."""

    def __str__(self) -> str:
        return f"{self.target}: {self.change}; what HISA relies on there: {self.relies}"


def fingerprint(node: syntax.Function) -> dict[str, str]:
    """What is kept of a body: its hash, and a short digest of each statement in order."""
    parts = (syntax.digest(syntax.head(part), _DIGITS) for part in syntax.flat(syntax.statements(node)))
    return {"hash": syntax.body_hash(node), "statements": " ".join(parts)}


@functools.cache
def load() -> dict[str, Any]:
    """The file: ``bodies`` by function (each with ``hash``, ``statements`` and ``releases``), and facts by
    ``releases``."""
    empty: dict[str, Any] = {"bodies": {}, "releases": {}}
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else empty


def _change(root: Path, target: str, node: syntax.Function, bodies: list[dict[str, Any]]) -> str:
    """What differs between ``node`` and the body nearest to it."""
    path, _ = syntax.locate(root, target)
    assert path is not None
    if not bodies:
        return f"{path.relative_to(root)}:{node.lineno} is new to HISA"
    here = [
        (part, syntax.digest(syntax.head(part), _DIGITS)) for part in syntax.flat(syntax.statements(node))
    ]
    mine = Counter(digest for _, digest in here)

    def distance(body: dict[str, Any]) -> int:
        theirs = Counter(body["statements"].split())
        return ((mine - theirs) + (theirs - mine)).total()

    nearest = min(reversed(bodies), key=distance)
    theirs = Counter(nearest["statements"].split())
    fresh, gone = mine - theirs, (theirs - mine).total()
    release = nearest["releases"][-1]
    lines: list[ast.stmt | ast.ExceptHandler] = []
    for part, digest in here:
        if fresh[digest] > 0:
            fresh[digest] -= 1
            lines.append(part)
    where = f"{path.relative_to(root)}:{node.lineno}"
    if not lines and not gone:
        return f"{where} has other parameters, defaults, decorators or another order than in {release}"
    parts = []
    if lines:
        first = ast.unparse(lines[0]).splitlines()[0]
        parts.append(
            f"{len(lines)} new statement{'s' * (len(lines) > 1)}, at line {lines[0].lineno} `{first}`"
        )
    if gone:
        parts.append(f"{gone} statement{'s' * (gone > 1)} removed")
    return f"{where} differs from {release}: {', '.join(parts)}"


def unknown(root: Path, relied: Mapping[str, str]) -> list[Unknown]:
    """Those functions of the SGLang in ``root`` whose bodies are not known.

    Args:
        relied: what HISA takes for granted, by function.
    """
    found = []
    for target, relies in relied.items():
        node = syntax.function(root, target)
        if node is None:  # a name that is imported there
            continue
        bodies = load()["bodies"].get(target, [])
        if syntax.body_hash(node) not in {body["hash"] for body in bodies}:
            found.append(Unknown(target, relies, _change(root, target, node, bodies)))
    return found


def release(version: str) -> dict[str, Any]:
    """What the file says of one release: ``behaviours``, ``places``, ``arguments`` and ``unreached``."""
    found: dict[str, Any] = load()["releases"][version]
    return found


def place(version: str, row: Row) -> str | None:
    """The attribute that ``row`` means in one release; None where it needs none."""
    found: str | None = release(version)["places"].get(row.places[0].target)
    return found
