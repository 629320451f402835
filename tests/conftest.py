"""Without a GPU, Triton kernels run in Triton's CPU interpreter; it must be chosen before any is defined.

`make test` runs with two SGLangs at once and shares out what depends on neither: see ``--share``.
"""

import os
import signal
from importlib.metadata import version

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell's background job ignores SIGINT, and so would its children, among them those that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share", action="store_true", help="leave tests marked once(VERSION) to the run with that SGLang"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--share"):
        return
    marks = {item: item.get_closest_marker("once") for item in items}
    left = [item for item, mark in marks.items() if mark and mark.args[0] != version("sglang")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]
