"""Every test runs once with each SGLang, or with its one, and every promise is shown by `make test`."""

import itertools
import re

import pytest

from sglang_hisa.launch.pages.tables import ROOT
from sglang_hisa.patches.releases import TESTED
from tests import parts
from tests.parts import Marks

FLAGS = (False, True)


def allowed():
    for server, promise in itertools.product(FLAGS, FLAGS):
        for once in (None, *TESTED):
            marks = Marks(server, promise, once)
            if parts.problem(marks) is None:
                yield marks


@pytest.mark.parametrize("version", TESTED)
@pytest.mark.parametrize("marks", list(allowed()), ids=str)
def test_one_run_has_a_test_and_no_second(marks, version):
    runs = [run for run in itertools.product(parts.PARTS, parts.SERVERS) if parts.has(*run, marks, version)]
    assert len(runs) == (marks.once in (None, version))
    assert version != TESTED[-1] or ("rest", "none") not in runs, "`.ci/test` starts no such run"
    if marks == Marks() and version == TESTED[-1]:
        assert runs == [("quick", "none")]
    if version != TESTED[-1]:
        assert all(part == "rest" for part, _ in runs), "`make test` has the newest alone"
    assert parts.has(None, None, marks, version), "`pytest` runs everything"


@pytest.mark.parametrize(
    "marks",
    [
        Marks(once="0.5.1"),
        Marks(promise=True),
        Marks(server=True, promise=True, once=TESTED[0]),
    ],
    ids=str,
)
def test_markers_that_contradict_each_other_are_refused(marks):
    assert parts.problem(marks)


def test_folders_without_sglang():
    """They are there, and what their tests run with is the same in both environments."""
    assert all(any((ROOT / folder).glob("test_*.py")) for folder in parts.WITHOUT_SGLANG)
    assert not parts.needs_sglang("tests/kernels/test_seal.py")
    assert parts.needs_sglang("tests/patches/test_pool.py") and parts.needs_sglang("tests/test_imports.py")
    torch = [
        re.findall(
            r"(?m)^(?:torch|triton|numpy)\b.*", (ROOT / f"launch/requirements/cpu-{one}.txt").read_text()
        )
        for one in TESTED
    ]
    assert len(torch[0]) == 3 and all(lines == torch[0] for lines in torch)


def test_every_promise_has_a_server_in_make_test():
    page = (ROOT / "docs" / "reliability.md").read_text()
    promised = page.partition("## What is promised")[2].partition("\n## ")[0]
    numbers = set(re.findall(r"(?m)^(\d+)\. \*\*", promised))
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "server").glob("test_*.py"))
    shown = set(re.findall(r"\d+", " ".join(re.findall(r"mark\.promise\(([\d, ]+)\)", tests))))
    assert shown == numbers and len(numbers) >= 4


def test_make_starts_each_run():
    script, makefile = (ROOT / ".ci" / "test").read_text(), (ROOT / "Makefile").read_text()
    assert all(f"--servers {servers}" in script for servers in parts.SERVERS)
    assert all(f"@.ci/test {part} $(" in makefile for part in parts.PARTS)
