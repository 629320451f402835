"""Servers that ask for an API key: the key goes with every request and into no record."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sglang_hisa.launch.cli import main
from sglang_hisa.launch.common import auth, provenance
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess, fetch, free_port
from sglang_hisa.launch.load import sweep

INFO = {
    "version": "0.5.23",
    "model_path": "m",
    "max_total_num_tokens": 1,
    "internal_states": [{}],
}


class Locked(BaseHTTPRequestHandler):
    """SGLang's rule: 401 without ``Bearer secret``, but for /health and /metrics."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer secret"
        free = self.path.startswith(("/health", "/metrics"))
        self.send_response(200 if known or free else 401)
        self.end_headers()
        self.wfile.write(json.dumps(INFO).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Locked)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    auth.use(None)


def test_no_key_or_a_wrong_one_is_told_as_such(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--api-key", "wrong")):
        assert main(["load", url, *words]) == 1
        told = capsys.readouterr().err
        assert "refuses the API key" in told and "SGLANG_HISA_API_KEY" in told


def test_the_key_of_the_option_or_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_HISA_API_KEY", "secret")
    assert sweep.server_facts(url, None).model == "m"
    auth.use("wrong")  # an option goes before the environment
    with pytest.raises(sweep.Unreachable, match="API key"):
        sweep.server_facts(url, None)
    auth.use("secret")
    assert json.loads(fetch(f"{url}/server_info")) == INFO
    assert auth.child({"A": "b"}) == {"A": "b", "OPENAI_API_KEY": "secret"}
    assert sweep.child_env({})["OPENAI_API_KEY"] == "secret"


def test_a_server_that_refuses_the_key_is_not_waited_for(url: str, tmp_path: Path) -> None:
    class Waiting(ServerProcess):
        def exit_code(self) -> int | None:
            return None

    server = Waiting([], env={}, log=tmp_path / "log", port=free_port())
    server.port = int(url.rpartition(":")[2])
    with pytest.raises(ServerFailed, match="refuses the API key"):
        server.wait_ready(timeout=60)
    auth.use("secret")
    server.wait_ready(timeout=5)


def test_no_record_holds_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--tp", "8", "--api-key", "secret", "--admin-api-key=secret", "--port", "1"]
    assert auth.from_flags(flags) == "secret" == auth.from_flags(["--api-key=secret"])
    assert auth.from_flags(["--tp", "8"]) is None
    assert "secret" not in " ".join(auth.redacted(flags)) and auth.redacted(flags)[-1] == "1"
    monkeypatch.setattr("sys.argv", ["hisa", "ab", "M", *flags])
    assert "secret" not in json.dumps(provenance.provenance())
