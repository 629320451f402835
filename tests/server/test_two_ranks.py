"""Tensor parallelism on the CPU, two ranks over gloo: each has the whole indexer, so both choose alike."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from sglang_hisa.server import ServerFailed, ServerProcess, cpu_env, cpu_flags

from .conftest import shared_prefix_load
from .test_real_server import SMALL

pytestmark = pytest.mark.server

RANKS = Path(__file__).parent / "ranks"


@contextmanager
def two_ranks(folder, model, **more):
    env = cpu_env(os.environ, json.dumps({**SMALL, "canary": "full"}))
    env |= {"RANKS": str(folder), "SGLANG_CPU_OMP_THREADS_BIND": "0|0", **more}
    env["PYTHONPATH"] = os.pathsep.join((env["PYTHONPATH"], str(RANKS)))
    flags = [*cpu_flags(model, pool_tokens=2048), "--tp", "2", "--chunked-prefill-size", "256"]
    with ServerProcess(flags, env=env, log=folder / "server.log") as server:
        yield server


def test_both_ranks_serve_and_choose_the_same(tmp_path, tiny):
    with two_ranks(tmp_path, tiny) as server:
        server.wait_ready(300)
        answers = shared_prefix_load(server, count=6, at_once=3)
        assert all(len(answer["output_ids"]) == 9 for answer in answers)
        canary = server.receipts()[0]["canary"]
        assert canary["checks"] > 100 and canary["violations"] == 0
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert seen[0]["calls"] > 50 and seen[0] == seen[1]
    log = (tmp_path / "server.log").read_text().splitlines()
    receipts = [line.split("receipt: ")[1] for line in log if "sglang-hisa receipt: " in line]
    assert len(receipts) == 2 and receipts[0] == receipts[1]


def test_ranks_that_differ_stop_with_one_message_each(tmp_path, tiny):
    with two_ranks(tmp_path, tiny, RANKS_DIFFER="1") as server, pytest.raises(ServerFailed, match="exited"):
        server.wait_ready(300)
    log = (tmp_path / "server.log").read_text()
    assert "refusing to start: the ranks of this server do not run the same HISA" in log
    assert "own setting is 0 on rank 0, 1 on rank 1" in log
    assert "Load weight end" not in log
