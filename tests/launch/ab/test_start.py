"""Servers that start side by side: the end of one is told at once, whichever is waited for."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from sglang_hisa.launch.ab.record import ArmFacts
from sglang_hisa.launch.ab.start import started
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess

STOCK, PAPER = Arm("stock", None), Arm("paper", '{"preset": "paper"}')
SILENT = "import time\ntime.sleep(60)\n"
DIES = "import sys\nprint('refusing to start: no such budget', flush=True)\nsys.exit(3)\n"


def test_one_that_ends_is_not_waited_out(tmp_path: Path) -> None:
    """The baseline would take a minute to start; the arm beside it ends at once."""
    for name, code in (("silent", SILENT), ("dies", DIES)):
        (tmp_path / f"{name}.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    arms, told = {arm.name: ArmFacts() for arm in (STOCK, PAPER)}, []
    begin = time.monotonic()
    with ExitStack() as stack:
        servers = {
            arm: stack.enter_context(
                ServerProcess([], env=env, log=tmp_path / f"{arm.name}.log", module=module)
            )
            for arm, module in ((STOCK, "silent"), (PAPER, "dies"))
        }
        with pytest.raises(ServerFailed, match="no such budget"):
            started(STOCK, servers, arms, None, 50, told.append)
    assert time.monotonic() - begin < 30 and told
    assert "no such budget" in (arms["paper"].log_tail or "") and not arms["stock"].log_tail
