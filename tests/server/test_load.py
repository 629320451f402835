"""``hisa load`` against a real server on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.common.models import make_tiny
from sglang_hisa.launch.common.server import ServerProcess, cpu_env, cpu_flags

pytestmark = [pytest.mark.server, pytest.mark.timeout(1200), pytest.mark.once("0.5.17")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("load")
    flags = [*cpu_flags(make_tiny(folder / "model", layers=2), pool_tokens=16384), "--enable-metrics"]
    hisa = '{"preset": "paper"}'
    with ServerProcess(flags, env=cpu_env(os.environ, hisa), log=folder / "server.log") as started:
        started.wait_ready(600)
        yield started


def start(server: ServerProcess, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sglang_hisa.launch.cli", "load", server.url, "--cpu", "--out", str(out)]
    command += ["--input-tokens", "150", "--output-tokens", "4", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def record(out: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((out / "report.json").read_text())
    return kept


def test_sweep(server, tmp_path):
    run = start(server, tmp_path, *("--concurrency", "1,3", "--requests", "4", "--slo", "ttft=100,e2e=100"))
    text, _ = run.communicate(timeout=600)
    kept = record(tmp_path)
    assert run.returncode == 0 and kept["complete"], text
    assert kept["stats"]["knee"] == 3 and "Knee: at least 3 at once" in " ".join(text.split())
    assert kept["server"]["receipt"]["active"] and kept["server"]["kv_tokens"] == 16384
    for point in kept["points"]:
        assert [r["input"] for r in point["requests"]] == [150] * 4 and point["retractions"] == 0
        assert all(r["error"] is None and r["e2e"] >= r["ttft"] > 0 for r in point["requests"])
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64") == 2


def test_an_interrupted_sweep_of_conversations_keeps_the_finished_points(server, tmp_path):
    words = ("--workload", "multi-turn", "--turns", "2", "--groups", "1", "--concurrency", "2,3")
    run = start(server, tmp_path, *words, "--requests", "8", "--input-tokens", "80", "--prefix-tokens", "60")
    try:
        deadline = time.monotonic() + 600
        kept_file = tmp_path / "report.json"
        while not kept_file.exists():
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        text, _ = run.communicate(timeout=300)
    finally:
        run.kill()
    kept = record(tmp_path)
    assert run.returncode == 130, text
    assert not kept["complete"] and kept["stopped_by"] == "interrupt"
    assert "PARTIAL (interrupt): 1 of 2 loads" in text and (tmp_path / "report.html").exists()
    (point,) = kept["points"]
    assert len(point["requests"]) == 16 and all(r["error"] is None for r in point["requests"])
    # Every second turn, and all conversations but the first two, find a prefix of at least a page.
    assert sum(r["cached"] >= 64 for r in point["requests"]) >= 8 + 6
