"""Requests that share a prefix begin together: SGLang's load generator, and a server that takes its time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.ab import client as ab_client
from sglang_hisa.launch.ab.plan import Cell
from sglang_hisa.launch.common.client import Client
from sglang_hisa.launch.common.models import make_tiny
from sglang_hisa.launch.common.server import cpu_env
from sglang_hisa.launch.load.sweep import child_env
from tests.launch.common.stream_server import Behaviour, Handler

pytestmark = pytest.mark.timeout(600)
CELL = Cell(64 + 20, 12, 5, 5, prefix_tokens=64)


class Slow(Handler):
    """As SGLang: one thing at a time, 150 ms for each request, and then a look whether it is paused.

    It refuses to go on when it is asked for the first time.
    """

    behaviour = Behaviour()
    events: list[str]
    working: threading.Lock
    going: threading.Event
    pauses: bool

    def do_GET(self) -> None:
        with self.working:
            super().do_GET()

    def do_POST(self) -> None:
        if self.path == "/pause_generation":
            assert self.rfile.read(int(self.headers["Content-Length"])) == b'{"mode": "in_place"}'
            if not self.pauses:
                return self.send_error(404)
            self.going.clear()
        elif self.path == "/continue_generation":
            if self.events[-1] != "busy":
                self.events.append("busy")
                return self.send_error(503)
            self.going.set()
        if self.path != "/generate":
            self.events.append(self.path[1:].split("_")[0])
            return self.answer({})
        with self.working:
            time.sleep(0.15)
            self.events.append("request")
        assert self.going.wait(60)
        super().do_POST()
        return None


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, str, Path]]:
    folder = tmp_path_factory.mktemp("generator")
    model, log = str(make_tiny(folder / "model", layers=2)), folder / "client.log"
    with Client(child_env(cpu_env(os.environ, None)), log) as client:
        yield client, model, log


def run(generator: tuple[Client, str, Path], pauses: bool, hold: bool) -> tuple[list[str], dict[str, Any]]:
    """What came to the server, in its order, and the benchmark's result."""
    client, model, _ = generator
    going = threading.Event()
    going.set()
    state = {"events": [], "working": threading.Lock(), "going": going, "pauses": pauses}
    handler = type("One", (Slow,), state)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        flags = ab_client.arguments(f"http://127.0.0.1:{server.server_address[1]}", model, CELL, 1)
        found = client.run(flags, 300, fresh="once", prefix=("the same", 64), hold=hold)
    finally:
        server.shutdown()
        server.server_close()
    assert found["completed"] == 5 and found["output_lens"] == [12] * 5
    assert going.is_set(), "the server goes on"
    return handler.events, found  # type: ignore[attr-defined]


def test_a_held_server_has_all_requests_before_the_first_begins(generator: Any) -> None:
    events, found = run(generator, pauses=True, hold=True)
    assert events == ["pause", *["request"] * 5, "busy", "continue"]
    first, last = min(found["ttfts"]), max(found["ttfts"])
    assert first > 0.7 and last - first < 0.5, "all five were there, 0.15 s each"


def test_requests_of_others_are_not_held(generator: Any) -> None:
    events, found = run(generator, pauses=True, hold=False)
    assert events == ["request"] * 5
    assert min(found["ttfts"]) < 0.6, "the first one began at once"


def test_a_server_that_cannot_be_paused_is_measured_as_it_is(generator: Any) -> None:
    events, _ = run(generator, pauses=False, hold=True)
    assert events == ["request"] * 5
    assert "the server was not paused" in generator[2].read_text()
