"""``hisa ab --live`` with real servers on the CPU and the real router."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest

from sglang_hisa.launch.common.models import make_tiny
from sglang_hisa.launch.common.server import fetch, free_port
from tests.launch.common.ports import wait_refused
from tests.server.conftest import text
from tests.server.test_ab import record, servers_of

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800), pytest.mark.once("0.5.17")]

PRUNED = {"preset": "paper", "block": 64, "decode_tokens": 128, "prefill_tokens": 128, "canary": "sample"}
LONG = 500


def body(seed: int, tokens: int, **fields: Any) -> dict[str, Any]:
    sampling = {"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return {"text": text(301 + 17 * seed, seed), "sampling_params": sampling, **fields}


def stream(url: str, seed: int, begun: Semaphore) -> list[str]:
    """Events of a streamed answer."""
    data = json.dumps(body(seed, LONG, stream=True)).encode()
    request = urllib.request.Request(f"{url}/generate", data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=900) as answer:
        lines = [answer.readline().decode()]
        begun.release()
        lines += answer.read().decode().splitlines()
    return [line.removeprefix("data:").strip() for line in lines if line.strip()]


def test_traffic_is_split_and_ctrl_c_loses_no_request(tmp_path: Path) -> None:
    model, port = make_tiny(tmp_path / "model", layers=2), free_port()
    url, log = f"http://127.0.0.1:{port}", tmp_path / "told.txt"
    command = [
        sys.executable,
        "-m",
        "sglang_hisa.launch.cli",
        "ab",
        "--live",
        "--cpu",
        "--arms",
        "stock,pruned",
    ]
    command += ["--arm", f"pruned={json.dumps(PRUNED)}", "--share", "0.25", "--port", str(port)]
    command += ["--every", "2", "--drain-timeout", "900", "--out", str(tmp_path / "out"), str(model)]
    with log.open("wb") as out:
        run = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 900
        while "serving at" not in log.read_text():
            assert time.monotonic() < deadline and run.poll() is None, log.read_text()
            time.sleep(0.2)
        for seed in range(8):
            assert json.loads(fetch(f"{url}/generate", body(seed, 3)))["meta_info"]["completion_tokens"] == 3
        begun = Semaphore(0)
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(stream, url, seed, begun) for seed in range(8, 12)]
            assert all(begun.acquire(timeout=300) for _ in answers)
            run.send_signal(signal.SIGINT)
            wait_refused(port)
            assert not any(answer.done() for answer in answers), "the signal was to come in the middle"
            for answer in answers:
                *_, last, end = answer.result()
                assert end == "[DONE]" and json.loads(last)["meta_info"]["completion_tokens"] == LONG
        assert run.wait(300) == 0, log.read_text()
    finally:
        run.kill()
    kept = record(tmp_path)
    assert kept["complete"] and kept["stopped_by"] == "SIGINT" and kept["cut"] is None
    stock, pruned = (kept["arms"][name]["totals"] for name in ("stock", "pruned"))
    assert (stock["requests"], pruned["requests"]) == (9, 3)
    assert (stock["ttft_count"], pruned["ttft_count"]) == (3, 1), "of the streamed ones"
    assert pruned["itl_count"] == LONG - 1 and 0 < pruned["itl_p50_s"] < 10
    assert pruned["prefill_tok_s"] > 0 and pruned["decode_tok_s"] > 0
    assert stock["candidates_prefill"] is None and 0 < pruned["candidates_prefill"] < 1
    assert stock["canary_checks"] is None
    assert pruned["canary_checks"] > 0 and pruned["canary_violations"] == 0
    assert kept["arms"]["pruned"]["receipt"]["active"] and kept["arms"]["stock"]["receipt"] is None
    windows = [json.loads(line) for line in (tmp_path / "out" / "windows.jsonl").read_text().splitlines()]
    assert sum(one["arms"]["stock"]["requests"] for one in windows) == 9
    assert "no verdict" in log.read_text()
    assert servers_of(tmp_path) == []
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if f"\0{port}\0" in _command(path)]
    assert left == []
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))


def _command(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError:
        return ""  # it ended since
