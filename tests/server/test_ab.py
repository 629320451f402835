"""``hisa ab`` with real servers on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.common import pruning
from sglang_hisa.launch.common.models import make_tiny
from tests.server.conftest import PLUGINS

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800), pytest.mark.once("0.5.17")]


def servers_of(folder: Path) -> list[int]:
    """Servers whose command line names the model in ``folder``."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"sglang.launch_server" in words and str(folder / "model").encode() in words:
            found.append(int(line.parent.name))
    return found


def start(folder: Path, arms: str, *more: str, **extra: str) -> subprocess.Popen[str]:
    """``hisa ab`` on a tiny model; ``extra`` is more of its environment."""
    model = make_tiny(folder / "model", layers=2)
    command = [sys.executable, "-m", "sglang_hisa.launch.cli", "ab", "--cpu", "--arms", arms]
    command += ["--cells", "150:1", "--output-tokens", "3", "--out", str(folder / "out"), str(model), *more]
    env = {**os.environ, **extra}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def record(folder: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((folder / "out" / "report.json").read_text())
    return kept


def test_stock_against_itself_shows_no_difference(tmp_path: Path) -> None:
    # One false verdict in a thousand runs: other tests may load this machine.
    run = start(tmp_path, "stock,stock", "--together", "--rounds", "6", "--alpha", "0.001")
    text, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, text
    kept = record(tmp_path)
    assert kept["complete"] and not kept["refusals"] and len(kept["measurements"]) == 12
    verdicts = {one["verdict"] for one in kept["stats"]["comparisons"]}
    assert verdicts == {"no difference seen"}, text
    assert "data:image/png;base64" in (tmp_path / "out" / "report.html").read_text()
    assert servers_of(tmp_path) == []


def test_fresh_servers_take_turns(tmp_path: Path) -> None:
    """The default: A B B A with one server at a time; two rounds are too few for a verdict."""
    run = start(tmp_path, "stock,paper", "--rounds", "2")
    text, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, text
    kept = record(tmp_path)
    order = [(one["round"], one["arm"]) for one in kept["measurements"]]
    assert order == [(0, "stock"), (0, "paper"), (1, "paper"), (1, "stock")]
    assert [len(kept["arms"][arm]["starts_s"]) for arm in ("stock", "paper")] == [2, 1]
    assert [one["arm"] for one in kept["quality"]] == ["stock", "paper"]
    assert all(one["kl_max"] < 1e-3 for one in kept["quality"]), "150 tokens are within every budget"
    assert {one["verdict"] for one in kept["stats"]["comparisons"]} == {"too few pairs"}
    assert "arm paper pruned nothing" in " ".join(text.split())
    assert servers_of(tmp_path) == []


def test_a_killed_server_loses_nothing_and_the_run_goes_on(tmp_path: Path) -> None:
    """Requests that share a prefix and decode together: one round is kept of a run whose server dies, the
    other measured by the next run."""
    words = ("--together", "--cells", "512+64:4", "--output-tokens", "40", "--rounds", "2", "--quality", "0")
    run = start(tmp_path, "stock,paper", *words)
    try:
        deadline = time.monotonic() + 900
        kept_file = tmp_path / "out" / "report.json"
        while not kept_file.exists() or len(record(tmp_path)["measurements"]) < 2:
            assert time.monotonic() < deadline and run.poll() is None
            time.sleep(0.1)
        os.kill(servers_of(tmp_path)[0], signal.SIGKILL)
        text, _ = run.communicate(timeout=300)
    finally:
        run.kill()
    assert run.returncode == 1, text
    kept = record(tmp_path)
    assert not kept["complete"] and "the server was killed from outside by SIGKILL" in kept["stopped_by"]
    assert any(arm["log_tail"] for arm in kept["arms"].values())
    assert servers_of(tmp_path) == []
    first = kept["measurements"]
    run = start(tmp_path, "stock,paper", *words, "--resume")
    text, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, text
    kept = record(tmp_path)
    assert kept["complete"] and len(kept["measurements"]) == 4 and len(kept["resumed"]) == 1
    assert kept["measurements"][:2] == first[:2], "a round that was cut off is measured anew, no other"
    for one in kept["measurements"]:
        assert one["cached"] == [512] * 4 and one["warmup_cached"] == 0
        assert one["output_lens"] == [43] * 4 and one["steady"]["at_once"] == 4
        assert one["steady"]["tokens"] > 4 * 16 and 0 < one["steady"]["share"] < 1
    for arm in ("stock", "paper"):  # of the second run, which measured one round
        log = (tmp_path / "out" / f"server-{arm}.log").read_text()
        assert [log.count(f"POST /{what}_generation HTTP/1.1") for what in ("pause", "continue")] == [1, 1]
    assert {one["metric"] for one in kept["stats"]["comparisons"]} == {"steady_itl", "steady_throughput"}
    assert "paper against stock: decode while all requests" in " ".join(text.split())
    assert servers_of(tmp_path) == []


def test_a_slowed_arm_is_called_slower_and_its_choices_are_compared(tmp_path: Path) -> None:
    """The arm prunes to a few pages, and a plugin delays its prefill by far more than the machine's noise."""
    slow = {"preset": "paper", "block": 64, "decode_tokens": 128, "prefill_tokens": 128}
    run = start(
        tmp_path,
        "stock,slow",
        "--together",
        *("--arm", f"slow={json.dumps(slow)}", "--cells", "900:1", "--rounds", "6"),
        *("--enable-return-indexer-topk", "--disable-overlap-schedule"),
        PYTHONPATH=str(PLUGINS / "faults"),
        SLOW_PREFILL="5",
    )
    text, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, text
    kept = record(tmp_path)
    found = {one["metric"]: one for one in kept["stats"]["comparisons"]}
    assert found["ttft"]["verdict"] == "slower", text
    assert found["ttft"]["speedup"] < 1 / found["ttft"]["noise_floor"]
    again, other = kept["quality"]
    assert (again["arm"], other["arm"]) == ("stock", "slow")
    assert again["kl_max"] < 1e-3 and min(again["overlap"]) > 0.99
    assert len(other["overlap"]) == 2 and max(other["overlap"]) < 0.9
    assert kept["arms"]["slow"]["retractions"] == 0
    assert kept["arms"]["stock"]["rows"] is None and len(kept["arms"]["slow"]["rows"]) == 1
    assert 0 < pruning.shares(kept["arms"]["slow"]["rows"])["prefill"] < 0.5
