"""The real router between two stand-ins for SGLang: shares, the death of an arm, what a stop waits for."""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from threading import Semaphore

import pytest

from sglang_hisa.launch.common import auth
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.server import ServerProcess, fetch, free_port
from sglang_hisa.launch.live.record import LiveRecord
from sglang_hisa.launch.live.router import Router
from sglang_hisa.launch.live.watch import Runner
from tests.launch.common.ports import wait_refused

pytestmark = pytest.mark.timeout(600)


class Stubs(Runner):
    def _server(self, arm: Arm) -> ServerProcess:
        log = self.folder / f"server-{arm.name}.log"
        return ServerProcess([arm.name], env=os.environ, log=log, module="tests.launch.live.stub")


def make(
    folder: Path,
    share: str,
    port: int,
    tell: Callable[[str], None],
    drain_s: float,
    flags: Sequence[str] = (),
) -> Stubs:
    return Stubs(
        arms=(Arm("a", None), Arm("b", None)),
        share=Fraction(share),
        gpus=None,
        place="here",
        model="m",
        flags=list(flags),
        make_env=lambda _: os.environ,
        host="127.0.0.1",
        port=port,
        every=0.5,
        drain_s=drain_s,
        folder=folder,
        tell=tell,
        show=lambda *_: None,
    )


def serve(
    folder: Path,
    share: str,
    user: Callable[[str], object],
    after: Callable[[str], object] = lambda _: None,
    number: signal.Signals = signal.SIGINT,
    drain_s: float = 30,
    flags: Sequence[str] = (),
) -> tuple[int, LiveRecord, list[str]]:
    """Run stubs; ``user`` gets the router's URL in a thread, then the signal comes, then ``after`` gets it.

    Returns the exit code, the record and the messages.
    """
    told: list[str] = []
    port = free_port()
    runner = make(folder, share, port, told.append, drain_s, flags)
    url = f"http://127.0.0.1:{port}"

    def use() -> None:
        while not any(line.startswith("serving at") for line in told):
            if runner.record.stopped_by:
                return  # it never served: its code says so
            time.sleep(0.05)
        try:
            user(url)
        finally:
            os.kill(os.getpid(), number)
        after(url)

    with ThreadPoolExecutor(1) as pool:
        used = pool.submit(use)
        code = runner.run()
        used.result()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))  # the router has left it
    return code, LiveRecord.load(folder), told


def generate(url: str) -> str:
    name: str = json.loads(fetch(f"{url}/generate", {"text": "x"}, 120))["text"]
    return name


def stream(url: str, events: int, begun: Semaphore) -> str:
    asked = {"text": "x", "stream": True, "sampling_params": {"max_new_tokens": events}}
    body = json.dumps(asked).encode()
    request = urllib.request.Request(f"{url}/generate", body, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as answer:
        begun.release()
        return str(answer.read().decode())


def requests_of(record: LiveRecord) -> list[int]:
    return [totals.requests for totals in record.totals.values() if totals]


def test_requests_are_split_by_the_share_and_a_stop_waits_for_what_was_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    answers: list[Future[str]] = []
    begun = Semaphore(0)
    held = tmp_path / "held"
    held.touch()  # no streamed answer ends before the port is closed, however long that takes
    monkeypatch.setenv("STUB_HOLDS", str(held))

    def user(url: str) -> None:
        names.extend(generate(url) for _ in range(40))
        answers.extend(pool.submit(stream, url, 20, begun) for _ in range(20))
        assert all(begun.acquire(timeout=120) for _ in answers)

    def after(url: str) -> None:
        try:
            wait_refused(int(url.rpartition(":")[2]))
            assert not any(answer.done() for answer in answers)
        finally:
            held.unlink()

    with ThreadPoolExecutor(20) as pool:
        code, record, _ = serve(tmp_path, "3/20", user, after, signal.SIGTERM, drain_s=120)
    assert [names.count(name) for name in "ab"] == [34, 6]
    assert code == 0 and record.complete and record.stopped_by == "SIGTERM" and record.cut is None
    texts = [answer.result() for answer in answers]
    assert all(text.count("data:") == 21 and text.endswith("[DONE]\n\n") for text in texts)
    assert requests_of(record) == [34 + 17, 6 + 3]


def test_a_dead_arm_and_requests_that_are_cut_off_are_told(tmp_path: Path) -> None:
    names: list[str] = []
    begun = Semaphore(0)

    def user(url: str) -> None:
        names.extend(generate(url) for _ in range(20))
        log = (tmp_path / "server-a.log").read_text()
        os.kill(int(log.rpartition(" ")[2]), signal.SIGKILL)
        names.extend(generate(url) for _ in range(20))
        pool.submit(stream, url, 600, begun)
        pool.submit(stream, url, 600, begun)
        assert begun.acquire(timeout=120) and begun.acquire(timeout=120)

    with ThreadPoolExecutor(2) as pool:
        code, record, told = serve(tmp_path, "1/20", user, drain_s=1)
    assert code == 1 and names == ["b" if i == names.index("b") else "a" for i in range(20)] + ["b"] * 20
    assert record.cut == "2 running, 0 queued"
    died, tail = record.arms["a"].died, record.arms["a"].log_tail or ""
    assert died is not None and died.code == -signal.SIGKILL
    assert tail.startswith("a serves as") and record.arms["b"].died is None
    assert any("arm a DIED (" in line and "SIGKILL" in line and line.endswith(tail) for line in told)
    assert requests_of(record)[1] == 21


def test_the_router_asks_for_the_key_of_its_servers_and_shows_it_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_KEY", "secret")
    answers: list[str] = []

    def user(url: str) -> None:
        answers.extend(generate(url) for _ in range(4))
        auth.use("wrong")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            generate(url)
        auth.use("secret")

    auth.use("secret")  # as the command does, for its own requests
    try:
        code, record, _ = serve(tmp_path, "1/2", user, flags=["--api-key", "secret"])
    finally:
        auth.use(None)
    assert code == 0 and sorted(answers) == ["a", "a", "b", "b"]
    given = {"env": {}, "log": tmp_path / "log", "host": "127.0.0.1", "port": 1, "drain_s": 1.0}
    assert "secret" not in " ".join(Router(["http://127.0.0.1:2"], **given, key="secret").argv)
    assert "secret" not in json.dumps(record.as_json())
    assert "secret" not in (tmp_path / "router.log").read_text()


def test_servers_without_a_key_are_routed_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the environment is for servers of other commands."""
    monkeypatch.setenv("SGLANG_HISA_API_KEY", "other")
    answers: list[str] = []

    def user(url: str) -> None:
        auth.use("")  # a user without a key
        answers.extend(generate(url) for _ in range(2))

    try:
        assert serve(tmp_path, "1/2", user)[0] == 0
    finally:
        auth.use(None)
    assert sorted(answers) == ["a", "b"]


def test_a_taken_port_is_said_before_any_server_starts(tmp_path: Path) -> None:
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert make(tmp_path, "1/2", port, told.append, 1).run() == 1
    assert [LiveRecord.load(tmp_path).stopped_by] == told and f"port {port} of 127.0.0.1 is taken" in told[0]
    assert not list(tmp_path.glob("*.log"))
