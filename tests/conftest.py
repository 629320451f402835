"""Without a GPU, Triton kernels run in Triton's CPU interpreter; it must be chosen before any is defined.

`make test` runs with two SGLangs at once and shares out what depends on neither: see ``--share``.
"""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
import torch

from sglang_hisa.patches import contract
from sglang_hisa.patches.releases import RELEASES

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell's background job ignores SIGINT, and so would its children, among them those that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_half_of_sglang() -> Iterator[None]:
    """A failed import leaves ``sglang.srt`` without ``sglang``: later ones fail, far from the cause."""
    yield
    half = [] if "sglang" in sys.modules else [name for name in sys.modules if name.startswith("sglang.")]
    for name in half:
        del sys.modules[name]
    assert not half, (
        "SGLang was imported without stand-ins for what it lacks: tests.history.sglang_cache.importable"
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share", action="store_true", help="leave tests marked once(VERSION) to the run with that SGLang"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--share"):
        return
    here = contract.installed_version()
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        mark = item.get_closest_marker("once")
        assert mark is None or mark.args[0] in RELEASES, f"{item.nodeid}: no run would have it"
        (kept if mark is None or mark.args[0] == here else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept
