"""The load generator's process, with a stand-in for SGLang's benchmark."""

import json
import os
import time

import pytest

from sglang_hisa.launch.common import client
from sglang_hisa.launch.load import plan, sweep
from sglang_hisa.launch.load.plan import Sweep, Workload
from sglang_hisa.launch.load.record import ServerFacts

SLOW = "import sys, time\nfor line in sys.stdin: time.sleep(60)"
BROKEN = """
import json, pathlib, sys
for line in sys.stdin:
    print("RuntimeError: no tokenizer")
    pathlib.Path(json.loads(line)["done"]).touch()
"""
ECHO = """
import json, pathlib, sys
for line in sys.stdin:
    job = json.loads(line)
    argv = job["argv"]
    pathlib.Path(argv[argv.index("--output-file") + 1]).write_text(json.dumps({"argv": argv}))
    pathlib.Path(job["done"]).touch()
"""


def use(monkeypatch, tmp_path, script):
    """Let ``script`` be the load generator."""
    path = tmp_path / "stand_in.py"
    path.write_text(script)
    monkeypatch.setattr(client, "GENERATOR", path)


@pytest.fixture
def make(monkeypatch, tmp_path):
    def make(script):
        use(monkeypatch, tmp_path, script)
        return client.Client(os.environ, tmp_path / "client.log")

    return make


def test_one_process_runs_many_loads(make):
    with make(ECHO) as generator:
        for seed in ("1", "2"):
            found = generator.run(["--seed", seed])["argv"]
            assert found[:2] == ["--seed", seed] and "--output-details" in found


def test_a_load_that_takes_too_long_is_ended(make):
    start = time.monotonic()
    with make(SLOW) as generator, pytest.raises(client.TooLong, match="not done after 0 s"):
        generator.run([], limit_s=0.2)
    assert time.monotonic() - start < 20


def test_the_end_of_the_log_says_why_there_is_no_result(make):
    with make(BROKEN) as generator, pytest.raises(client.ClientFailed, match="no tokenizer"):
        generator.run([])


@pytest.mark.parametrize(
    ("script", "limit", "code", "why"),
    [(SLOW, 0.6, 0, "load 1: not done after 1 s"), (BROKEN, 60, 1, "no SGLang server")],
)
def test_a_sweep_that_cannot_go_on_is_kept_as_partial(monkeypatch, tmp_path, script, limit, code, why):
    use(monkeypatch, tmp_path, script)
    saved = []
    runner = sweep.Runner(
        url="http://127.0.0.1:9",
        server=ServerFacts("0.5.23", "m", "m", None, 4096),
        work=Workload("random", 10, 2),
        sweep=Sweep("concurrency", plan.parse_loads("1,2", "concurrency"), 1, 1, limit, 1),
        slo={},
        env=os.environ,
        folder=tmp_path,
        save=lambda record: saved.append(json.loads(json.dumps(record.as_json()))),
        tell=lambda kept: None,
    )
    assert runner.run() == code
    assert not saved[-1]["complete"] and saved[-1]["stopped_by"].startswith(why) and not saved[-1]["points"]
