"""Without a GPU, Triton kernels run in Triton's CPU interpreter; it must be chosen before any is defined.

`make test` and `make test-rest` choose tests by ``--part`` and ``--servers``: see ``tests/parts.py``.
"""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
import torch

from sglang_hisa.patches import contract
from sglang_hisa.patches.releases import NEWEST
from tests import parts

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell's background job ignores SIGINT, and so would its children, among them those that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def in_repository(item: pytest.Item) -> str:
    """Where the test's file is, from the repository's root."""
    return item.path.relative_to(item.config.rootpath).as_posix()


@pytest.fixture(autouse=True)
def _no_half_of_sglang(request: pytest.FixtureRequest) -> Iterator[None]:
    """A failed import leaves ``sglang.srt`` without ``sglang``: later ones fail, far from the cause.

    A whole import is wrong, too, where a test has said that it needs none.
    """
    before = "sglang" in sys.modules
    yield
    if not (before or parts.needs_sglang(in_repository(request.node))):
        assert "sglang" not in sys.modules, "this test imported SGLang: see tests.parts.WITHOUT_SGLANG"
    half = [] if "sglang" in sys.modules else [name for name in sys.modules if name.startswith("sglang.")]
    for name in half:
        del sys.modules[name]
    assert not half, (
        "SGLang was imported without stand-ins for what it lacks: tests.history.sglang_cache.importable"
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part",
        choices=parts.PARTS,
        help="what `make test` (quick) or `make test-rest` runs with this SGLang; all tests without it",
    )
    parser.addoption(
        "--servers", choices=parts.SERVERS, help="only the tests with a real server, or none of them"
    )


def marks_of(item: pytest.Item) -> parts.Marks:
    once = item.get_closest_marker("once")
    only = None if parts.needs_sglang(in_repository(item)) else NEWEST
    return parts.Marks(
        server=item.get_closest_marker("server") is not None,
        promise=item.get_closest_marker("promise") is not None,
        once=once.args[0] if once else only,
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = contract.installed_version() or ""
    part, servers = config.getoption("--part"), config.getoption("--servers")
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        marks = marks_of(item)
        wrong = parts.problem(marks)
        assert wrong is None, f"{item.nodeid}: {wrong}"
        (kept if parts.has(part, servers, marks, here) else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
