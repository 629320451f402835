"""Check the patch table against SGLang's source text: no import, no GPU, once a process."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sglang_hisa import config as settings
from sglang_hisa.config import Config
from sglang_hisa.patches import known, source, syntax
from sglang_hisa.patches.behaviours import BEHAVIOURS
from sglang_hisa.patches.places import Patch, Place, Probe, Row
from sglang_hisa.patches.releases import NEWEST, RELEASES
from sglang_hisa.patches.table import ROWS


@dataclass(frozen=True)
class Applied:
    """A row of the patch table with the attribute that it patches in one SGLang."""

    patch: Patch
    target: str


@dataclass(frozen=True)
class Sglang:
    """One SGLang, as its source shows it."""

    root: Path
    version: str | None
    """What it calls itself: for messages alone."""
    behaviours: frozenset[str]
    """Keys of ``BEHAVIOURS`` that it shows."""
    patches: tuple[Applied, ...]
    problems: tuple[str, ...]
    """What the table needs and this source lacks."""
    unknown: tuple[known.Unknown, ...]
    """Functions whose inside HISA relies on, and whose bodies are none of those that it knows."""

    @property
    def name(self) -> str:
        return self.version or "of an unknown version"


@dataclass(frozen=True)
class Unfit:
    """An SGLang that is not patched."""

    what: str
    reasons: tuple[str, ...]
    fix: str
    compared: bool = False
    """Whether there was a source to compare with the patch table."""


def installed_version() -> str | None:
    """Version of the SGLang that a server started here imports; None when there is none, or it tells none."""
    try:
        return source.version_of(installed_root())
    except source.SourceError:
        return None


def installed_root() -> Path:
    """Folder of the ``sglang`` package that a server started here imports. Raises ``SourceError``."""
    return source.find_root()


def parameter_problem(found: Sequence[str], needed: Sequence[str]) -> bool:
    """Whether the parameters ``found`` are not those ``needed`` (see :class:`.table.Place`)."""
    at, others = 0, False
    for name in needed:
        wanted = name.removesuffix("?")
        if name == "*":
            others = True
        elif others and wanted in found[at:]:
            at, others = found.index(wanted, at) + 1, False
        elif not others and at < len(found) and found[at] == wanted:
            at += 1
        elif not name.endswith("?"):
            return True
    return at < len(found) and not others


def _target_problems(root: Path, place: Place) -> list[str]:
    target = place.target
    path, node = syntax.locate(root, target)
    if path is None:
        return [f"{target}: no such module"]
    if node is None:
        return [f"{target}: {target.rsplit('.', 1)[1]} is not in {path.relative_to(root)}"]
    if place.params is None:
        return []
    function = syntax.function(root, target)
    if function is None:
        return [f"{target}: is no longer a function"]
    found = syntax.parameters(function)
    if parameter_problem(found, place.params):
        return [f"{target}: parameters are ({', '.join(found)}), expected ({', '.join(place.params)})"]
    return []


def _caller_problems(root: Path, place: Place) -> list[str]:
    problems = []
    for file, expression in place.callers:
        path = root / file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not re.search(r"(?<!\w)" + re.escape(expression), text):
            problems.append(f"{place.target}: {file} no longer reaches it through `{expression}`")
    return problems


def place_of(root: Path, row: Row) -> tuple[Place | None, list[str]]:
    """The first place of ``row`` that fits the source in ``root``; or None and what the nearest lacks."""
    found: list[tuple[tuple[bool, int], list[str]]] = []
    for place in row.places:
        problems = _target_problems(root, place) + _caller_problems(root, place)
        if not problems:
            return place, []
        # A target that is there says more than one that this SGLang never had.
        absent = syntax.locate(root, place.target)[1] is None
        found.append(((absent, len(problems)), problems))
    return None, min(found, key=lambda one: one[0])[1]


def shows(root: Path, probe: Probe) -> bool:
    """Whether the source in ``root`` has the behaviour."""
    for target in probe.targets:
        node = syntax.function(root, target)
        if node is None:
            continue
        has_parameter = not probe.parameter or probe.parameter in syntax.parameters(node)
        if has_parameter and probe.text in syntax.text(node):
            return True
    return False


def wanted(row: Row, behaviours: frozenset[str]) -> bool:
    """Whether an SGLang of these behaviours needs the row."""
    if not isinstance(row, Patch):
        return True
    return (not row.only or row.only in behaviours) and row.unless not in behaviours


@functools.cache
def read(root: Path) -> Sglang:
    """Compare the SGLang in ``root`` (its ``sglang`` folder) with the patch table."""
    behaviours = frozenset(name for name, probe in BEHAVIOURS.items() if shows(root, probe))
    patches: list[Applied] = []
    problems: list[str] = []
    relied: dict[str, str] = {}
    for row in ROWS:
        if not wanted(row, behaviours):
            continue
        place, missing = place_of(root, row)
        if place is None:
            problems += [] if getattr(row, "optional", False) else missing
            continue
        if isinstance(row, Patch):
            patches.append(Applied(row, place.target))
        if row.relies:
            relied[place.target] = row.relies
    unknown = known.unknown(root, relied)
    version = source.version_of(root)
    return Sglang(root, version, behaviours, tuple(patches), tuple(problems), tuple(unknown))


def all_the_same(config: Config) -> str:
    """The command after which a server with these settings starts on an SGLang with unknown bodies."""
    return settings.export(replace(config, unverified_source=True))


def unfit(config: Config | None = None) -> Unfit | None:
    """Why the SGLang that a server started here imports is not patched; None when it is.

    Args:
        config: of that server; without it no unknown body is allowed.
    """
    try:
        root = installed_root()
    except source.SourceError as error:
        return Unfit("there is no SGLang to patch", (str(error),), error.fix)
    found = read(root)
    release = found.version if found.version in RELEASES else NEWEST
    fix = source.replacement(root, release)
    bodies = tuple(map(str, found.unknown))
    if found.problems:
        what = f"SGLang {found.name} in {root} does not match the patch table"
        return Unfit(what, (*found.problems, *bodies), fix, compared=True)
    if bodies and not (config and config.unverified_source):
        what = f"SGLang {found.name} in {root} differs where HISA relies on it"
        serve = "to serve it all the same, with the canary on and marked unverified"
        return Unfit(what, bodies, f"{fix}; or, {serve}: {all_the_same(config or Config())}", compared=True)
    return None


def check_installed() -> list[str]:
    """The reasons of :func:`unfit`; empty if there are none."""
    found = unfit()
    return [] if found is None else list(found.reasons)
