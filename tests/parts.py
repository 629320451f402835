"""Which run has which test.

`make test` has the quick part: with the newest SGLang, all tests without a server and those real servers that
show a promise of docs/reliability.md. `make test-rest` has what that leaves. Each part runs as two processes
side by side, one of them for the tests with servers. Tests that import no SGLang run in one environment, the
newest: torch and Triton are the same in both.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_hisa.patches.releases import NEWEST, TESTED

QUICK, REST = PARTS = ("quick", "rest")
ONLY, NONE = SERVERS = ("only", "none")
WITHOUT_SGLANG = tuple(
    f"tests/{folder}"
    for folder in (
        "browser",
        "kernels",
        "launch/ab",
        "launch/bench",
        "launch/eval",
        "launch/live",
        "launch/load",
        "launch/pages",
        "launch/research",
        "launch/whole",
        "sglang_hisa",
    )
)
"""Folders whose tests import no SGLang; ``tests/conftest.py`` sees to it."""


def needs_sglang(path: str) -> bool:
    """Whether the test file ``path``, from the repository's root, may import SGLang."""
    return not path.startswith(tuple(f"{folder}/" for folder in WITHOUT_SGLANG))


@dataclass(frozen=True)
class Marks:
    """What the markers of a test say; pyproject.toml describes them."""

    server: bool = False
    promise: bool = False
    once: str | None = None
    """The one SGLang of the test, where it does not run with each."""


def problem(marks: Marks) -> str | None:
    """Why no run, or another than meant, would have a test with these markers."""
    if marks.once not in (None, *TESTED):
        return f"no run has SGLang {marks.once}"
    if marks.promise and marks.once not in (None, NEWEST):
        return f"`make test` has SGLang {NEWEST}, so that a promise cannot be shown with {marks.once}"
    if marks.promise and not marks.server:
        return "`make test` has it anyway: `promise` chooses among the tests with a server"
    return None


def part_of(marks: Marks, version: str) -> str:
    """The part that has a test when it runs with SGLang ``version``."""
    quick = marks.promise or not marks.server
    return QUICK if quick and version == NEWEST else REST


def has(part: str | None, servers: str | None, marks: Marks, version: str) -> bool:
    """Whether ``--part PART --servers SERVERS`` runs a test with SGLang ``version``; None: either."""
    if part is not None and marks.once not in (None, version):
        return False
    return part in (None, part_of(marks, version)) and servers in (None, ONLY if marks.server else NONE)
