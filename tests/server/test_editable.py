"""An editable install of SGLang, as its official image has: no source where the wheel's files would be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sglang_hisa.launch.common.server import ServerProcess, cpu_env, cpu_flags
from sglang_hisa.patches import contract
from sglang_hisa.patches.releases import NEWEST
from tests.server.conftest import text
from tests.sglang_copies import (
    WHEEL,
    install_editable,
    make_project,
    python_without_sglang,
    site_of,
)

SMALL = '{"decode_tokens": 256, "prefill_tokens": 256, "dense_tail_tokens": 0}'
MARK = '__import__("pathlib").Path(f"{__file__}.imported").touch()'
LEFT_OUT = shutil.ignore_patterns("__pycache__", "multimodal_gen", "test")


@pytest.mark.server
@pytest.mark.once(NEWEST)
def test_an_editable_install_is_served(tmp_path, tiny):
    """pip's own editable install, in an environment that has no other SGLang."""
    root = tmp_path / "checkout" / "python" / "sglang"
    shutil.copytree(WHEEL, root, ignore=LEFT_OUT)
    scheduler = root / "srt" / "managers" / "scheduler.py"
    scheduler.write_text(f"{scheduler.read_text()}\n{MARK}\n")
    python = python_without_sglang(tmp_path / "venv")
    install_editable(python, make_project(root.parent, contract.installed_version(), hook=True))
    assert not (site_of(python) / "sglang").exists()

    env = cpu_env(os.environ, SMALL)
    words = [str(python), "-m", "sglang_hisa.launch.cli", "doctor", "--json"]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["ok"], report["findings"]
    assert not any(row["problems"] for row in report["patches"])
    (found,) = [finding for finding in report["findings"] if finding["check"] == "sglang"]
    assert str(root) in found["detail"]

    log = tmp_path / "server.log"
    with ServerProcess(cpu_flags(tiny), env=env, log=log, python=str(python)) as server:
        server.wait_ready(900)
        answer = server.generate(text(900, 1), 5)
        (receipt,) = server.receipts()
    assert answer["meta_info"]["completion_tokens"] == 5
    assert receipt is not None and receipt["active"] and receipt["hisa_steps"]["decode"] >= 4
    assert receipt["hisa_steps"]["prefill"] >= 1
    assert Path(f"{scheduler}.imported").exists(), "another copy was served"
