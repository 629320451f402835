"""``ServerProcess`` with a small HTTP server in SGLang's place: start, failure, and what is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_hisa.launch.common import session
from sglang_hisa.launch.common.server import (
    ServerFailed,
    ServerProcess,
    check_free,
    child_env,
    cpu_env,
    cpu_flags,
    free_port,
)

FAKE = """\
#!{python}
# Called as: fake -m sglang.launch_server MODE PIDS --host 127.0.0.1 --port N
import http.server, json, os, signal, subprocess, sys, time

mode, pids, port = sys.argv[3], sys.argv[4], int(sys.argv[-1])
if mode == "exits":
    print("\\n".join(f"line {{i}}" for i in range(60)), flush=True)
    sys.exit(3)
stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if mode == "stubborn" else ""
# As SGLang's workers while they import, this one does not die with its parent.
worker = stubborn + "import time; print(flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE)
child.stdout.readline()
if mode != "crashes":
    print("loading", flush=True)  # before the pids, which tests wait for
with open(pids, "w") as file:
    file.write(f"{{os.getpid()}} {{child.pid}}\\n")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "crashes":
    os._exit(9)
if mode == "hangs":
    time.sleep(600)


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, body):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self):
        states = [{{"sglang_hisa": {{"active": True}}}}, {{}}]
        self.answer(json.dumps({{"internal_states": states}}))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if json.loads(body).get("stream"):  # server-sent events, of which the last one is no JSON
            body = f"data: {{body}}\\n\\n" * 2 + "data: [DONE]\\n\\n"
        self.answer("Cache flushed." if self.path == "/flush_cache?timeout=60" else body)


http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def fake(tmp_path: Path) -> str:
    path = tmp_path / "fake-sglang"
    path.write_text(FAKE.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


def server(fake: str, tmp_path: Path, mode: str = "serves", port: int = 0) -> ServerProcess:
    flags = [mode, str(tmp_path / "pids")]
    return ServerProcess(flags, env=os.environ, log=tmp_path / "log" / "s.txt", port=port, python=fake)


def pids_of(tmp_path: Path, timeout: float = 60) -> list[int]:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found = (tmp_path / "pids").read_text() if (tmp_path / "pids").exists() else ""
        if found.endswith("\n"):
            return [int(pid) for pid in found.split()]
        time.sleep(0.02)
    pytest.fail("the fake server did not start")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def gone(pids: list[int], timeout: float = 60) -> bool:
    deadline = time.monotonic() + timeout
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def port_is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock.connect_ex(("127.0.0.1", port)) != 0


def test_ready_requests_and_clean_end(fake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be asked for a local server
    told: list[tuple[float, str]] = []
    with server(fake, tmp_path) as child:
        ready = child.wait_ready(60, lambda elapsed, line: told.append((elapsed, line)), every=0.01)
        assert 0 <= ready < 60
        child.wait_ready(60, lambda *_: pytest.fail("told before its time"), every=600)
        pids = pids_of(tmp_path)
        assert told and told[0][0] < 5 and {line for _, line in told} <= {"", "loading"}
        sent = child.generate("hello", 4, return_indexer_topk=True)
        assert sent == {
            "text": "hello",
            "sampling_params": {"max_new_tokens": 4, "temperature": 0, "ignore_eos": True},
            "return_indexer_topk": True,
        }
        assert child.generate((3, 4))["input_ids"] == [3, 4] and "text" not in child.generate([3])
        sampling = {"max_new_tokens": 2, "temperature": 0, "ignore_eos": True}
        streamed = {"input_ids": [3, 4], "sampling_params": sampling, "stream": True}
        assert list(child.stream((3, 4), 2)) == [streamed] * 2
        assert child.receipts() == [{"active": True}, None]
        child.flush_cache()
    assert gone(pids, 0) and port_is_free(child.port)
    child.stop()


def test_an_exit_is_reported_at_once_with_the_end_of_the_log(fake: str, tmp_path: Path) -> None:
    with server(fake, tmp_path, "exits") as child, pytest.raises(ServerFailed) as caught:
        child.wait_ready(60)
    assert "exited with code 3" in str(caught.value)
    assert str(caught.value).splitlines()[1:] == [f"line {i}" for i in range(20, 60)]


@pytest.mark.parametrize(("form", "said"), [("dummy", "spread"), ("auto", "")])
def test_made_up_weights_of_any_server_have_index_scores_that_differ(
    form: str, said: str, tmp_path: Path
) -> None:
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\necho "norms=$SGLANG_HISA_DUMMY"\n')
    shell.chmod(0o700)
    server = ServerProcess(
        ["--load-format", form], env={"PATH": os.environ["PATH"]}, log=tmp_path / "log", python=str(shell)
    )
    with server, pytest.raises(ServerFailed):
        server.wait_ready(20)
    assert f"norms={said}\n" in (tmp_path / "log").read_text()


def test_a_server_that_is_not_ready_in_time(fake: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ServerFailed, match=r"not ready after 1 s\nloading"),
        server(fake, tmp_path, "hangs") as child,
    ):
        pids = pids_of(tmp_path)
        child.wait_ready(1)
    assert gone(pids, 0)


def test_stop_ends_a_server_that_ignores_sigterm(fake: str, tmp_path: Path) -> None:
    child = server(fake, tmp_path, "stubborn")
    child.start()
    child.wait_ready(60)
    pids = pids_of(tmp_path)
    begin = time.monotonic()
    child.stop(grace=0.3)
    assert 0.3 <= time.monotonic() - begin < 5
    assert gone(pids, 0) and port_is_free(child.port)


def test_stop_ends_workers_of_a_server_that_died(fake: str, tmp_path: Path) -> None:
    with server(fake, tmp_path, "crashes") as child:
        with pytest.raises(ServerFailed, match="code 9"):
            child.wait_ready(60)
        pids = pids_of(tmp_path)
        assert alive(pids[1]), "this test needs a worker that outlives its parent"
    assert gone(pids, 0)


def test_a_taken_port_is_refused(fake: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerFailed, match=f"port {port} .* taken"):
            server(fake, tmp_path, port=port).start()
    assert not (tmp_path / "pids").exists()
    assert free_port() != 0


def test_a_port_that_a_fork_holds_for_a_moment_is_free() -> None:
    """Between fork and exec, a child that another thread starts holds the socket that tried the port."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        threading.Timer(0.3, tried.close).start()
        check_free(tried.getsockname()[1])
        assert tried.fileno() == -1, "not before the other socket is gone"


def test_names_of_processes_need_not_be_text() -> None:
    """The kernel cuts them at 15 bytes, even within a character; any process may have such a name."""
    name = Path("/proc/self/comm")
    before = name.read_bytes()
    try:
        name.write_bytes("fifteen bytes \u20ac".encode())
        assert os.getpid() in session.processes(os.getsid(0))
    finally:
        name.write_bytes(before)


def test_a_started_server_is_not_started_twice(fake: str, tmp_path: Path) -> None:
    with server(fake, tmp_path) as child:
        pids_of(tmp_path)
        with pytest.raises(RuntimeError, match="already"):
            child.start()


OWNER = """
import os, sys, time
from pathlib import Path
from sglang_hisa.launch.common.server import ServerProcess
server = ServerProcess(["serves", {pids!r}], env=os.environ, log=Path({log!r}), python={fake!r})
server.start()
server.wait_ready(60)
print("ready", flush=True)
{then}
"""


@pytest.fixture
def owner(fake: str, tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Started owners; the test appends them."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start_owner(fake: str, tmp_path: Path, then: str) -> subprocess.Popen[str]:
    code = OWNER.format(pids=str(tmp_path / "pids"), log=str(tmp_path / "log.txt"), fake=fake, then=then)
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killing_the_owner_ends_the_server(
    fake: str, tmp_path: Path, owner: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    owner.append(start_owner(fake, tmp_path, "time.sleep(600)"))
    assert owner[0].stdout is not None and owner[0].stdout.readline() == "ready\n"
    pids = pids_of(tmp_path)
    assert all(map(alive, pids))
    owner[0].send_signal(number)
    assert gone(pids)


@pytest.mark.parametrize("then", ["", "raise ValueError"])
def test_an_owner_that_forgets_to_stop(
    fake: str, tmp_path: Path, owner: list[subprocess.Popen[str]], then: str
) -> None:
    owner.append(start_owner(fake, tmp_path, then))
    assert owner[0].wait(120) == (1 if then else 0)
    assert gone(pids_of(tmp_path))


def test_environment_of_the_child() -> None:
    base = {"SGLANG_HISA": "paper", "HOME": "/h"}
    assert child_env(base, None) == {"HOME": "/h"}
    assert child_env(base, "balanced", X="1") == {"HOME": "/h", "SGLANG_HISA": "balanced", "X": "1"}


def test_environment_and_flags_on_a_cpu(tmp_path: Path) -> None:
    env = cpu_env({"PYTHONPATH": "/mine", "SGLANG_HISA": "paper"}, None, fused=True)
    shims, rest = env["PYTHONPATH"].split(os.pathsep)
    assert rest == "/mine" and "SGLANG_HISA" not in env
    assert (Path(shims) / "sgl_kernel/__init__.py").is_file()
    assert (Path(shims) / "torchvision/__init__.py").is_file()
    assert env["SGLANG_HISA_CPU"] == "1" and env["SGLANG_DSA_FUSE_TOPK"] == "1"
    assert cpu_env({}, "balanced")["SGLANG_DSA_FUSE_TOPK"] == "0"
    flags = cpu_flags(tmp_path, context=512, pool_tokens=1024)
    values = dict(zip(flags[::2], flags[1::2]))
    assert values["--model-path"] == str(tmp_path) and values["--page-size"] == "64"
    assert values["--context-length"] == "512" and values["--max-total-tokens"] == "1024"


def test_a_port_is_given_once_in_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs beside each other choose ports long before their servers bind them."""
    first, second = free_port(), free_port()
    wanted = [first, second, first + 1, first + 2, first + 3]
    monkeypatch.setattr("sglang_hisa.launch.common.server.random.sample", lambda *a: wanted)
    assert free_port() not in (first, second)
    ask = f"import random; random.sample = lambda *a: {[first, *range(19000, 19020)]}\n"
    ask += "from sglang_hisa.launch.common.server import free_port; print(free_port())"
    there = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert int(there.stdout) != first
