"""No history of the cache makes a summary wrong: SGLang's own allocator, tree and pool under random load."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.history.machine import WEIGHTS, History, history_settings
from tests.history.mutants import CANDIDATES, MUTANTS, SUMMARY
from tests.history.sglang_cache import importable

STEPS, LENGTH = 10_000, 100
SETTINGS = history_settings(STEPS // LENGTH + 12, LENGTH, derandomize=True)
"""A few more, as some histories end early; which do depends on the source of :class:`History`."""


@pytest.fixture(scope="module", autouse=True)
def cache() -> Iterator[None]:
    with importable():
        yield


HAPPENED = {
    *WEIGHTS,
    "prefix hit",
    "chunk that starts inside a page",
    "page evicted for another",
    "retraction",
    "abort in a prefill",
    "page of rejected drafts given back",
    "page completed by decode, coarse",
    "page completed by decode, rows",
    "page completed by decode, store",
    *(
        f"{kind} {server}"
        for kind in ("extend", "decode", "verify")
        for server in ("with HISA", "left to stock")
    ),
    "pruned row",
}


def test_every_history_keeps_summaries_and_candidates_right() -> None:
    before = History.checks - History.histories
    History.seen.clear()
    run_state_machine_as_test(History, settings=SETTINGS)
    assert History.checks - History.histories - before >= STEPS
    rare = {what: History.seen[what] for what in HAPPENED if History.seen[what] < 5}
    assert not rare, "the histories are too poor to prove anything about these"


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The histories find each wrong version of our code, by the invariant that it breaks and no other."""
    put_in, invariant = MUTANTS[name]
    put_in(monkeypatch)
    search = settings(SETTINGS, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(History, settings=search)
    assert invariant in {entry.name for entry in caught.traceback}


def test_the_page_lists_every_mutant() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text()
    listed = re.findall(r"^\| ([12]) \| (.+) \|$", page, flags=re.MULTILINE)
    numbers = {SUMMARY: "1", CANDIDATES: "2"}
    assert sorted(listed) == sorted((numbers[found_by], name) for name, (_, found_by) in MUTANTS.items())
