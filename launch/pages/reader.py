"""Reads the records of ``launch/results``, whose names begin with their kind (docs/design.md, records)."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from sglang_hisa.launch.common.record import Record, load

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "launch" / "results"
R = TypeVar("R", bound=Record)

Parts = list[tuple[str, dict[str, Record]]]
"""Texts, and the records by name that each is made of."""
Table = Callable[[str], Parts]
"""Makes a table of the records that are wanted."""


def newest(kind: type[R], names: str, fits: Callable[[str, R], bool] = lambda *_: True) -> dict[str, R]:
    """Records of these ``names``, a pattern, that fit, the newest day first.

    Of one plan, GPU and SGLang the newest alone: it takes the place of those before it.
    """
    every = {path.stem: load(path, kind) for path in sorted(RESULTS.glob(f"{names}.json"))}
    found = {name: record for name, record in every.items() if fits(name, record)}
    latest: dict[object, str] = {}
    for name, record in sorted(found.items(), key=lambda item: item[1].origin.date or ""):
        latest[record.origin.gpus, record.origin.sglang, str(getattr(record, "plan", ""))] = name
    order = sorted(sorted(latest.values()), key=lambda name: found[name].origin.day, reverse=True)
    return {name: found[name] for name in order}


def each(
    kind: type[R],
    names: str,
    made: Callable[[R], str],
    subject: Callable[[str, R], str] = lambda name, _: name,
) -> Table:
    """What ``made`` says of each record of these ``names`` whose ``subject`` is what is wanted, a pattern.

    Records of which it says nothing are left out.
    """

    def parts(wanted: str) -> Parts:
        found = newest(kind, names, lambda name, record: fnmatch(subject(name, record), wanted or "*"))
        return [(text, {name: record}) for name, record in found.items() if (text := made(record))]

    return parts
