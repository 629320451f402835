"""``hisa status``: what a running server serves, readable and for scripts."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from sglang_hisa.config import parse
from sglang_hisa.counts import StockReason
from sglang_hisa.launch.cli import main
from sglang_hisa.launch.common.server import free_port
from sglang_hisa.patches.runtime import Runtime


def receipt(
    setting: str = '{"preset": "paper", "prefill_tokens": 16384, "canary": "sample"}',
) -> dict[str, Any]:
    """The receipt of a scheduler that has served rows, by the code that makes real ones."""
    state = Runtime(parse(setting), "0.5.23", 16)
    state.rows.allocate(torch.device("cpu"), "torch")
    lengths = torch.tensor([40000, 20000], dtype=torch.int32)
    state.rows.add("decode", lengths, torch.tensor([8192, 8192], dtype=torch.int32))
    state.layers, state.summary_bytes = set(range(61)), 3 << 20
    state.stock_rows[StockReason.PREFILL_END_OF_PROMPTS] = 1234
    return json.loads(json.dumps(state.receipt()))


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts a server with the given receipts; its URL."""
    started = []

    def start(*receipts: dict[str, Any] | None) -> str:
        states = [{} if one is None else {"sglang_hisa": one} for one in receipts]
        info = {"version": "0.5.23", "model_path": "m", "max_total_num_tokens": 99, "internal_states": states}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(info).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        started.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("columns", ["80", "120"])
def test_an_active_server(
    columns: str, serve: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["status", serve(receipt(), receipt())]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= int(columns)
    text = " ".join(out.split())
    for part in (
        *("active yes", "paper (changed: prefill_tokens, canary)", "layers 61", "scheduler 0, 1"),
        *(
            "2 rows, scored 27.3% of their context",
            "prefill no row yet",
            "1,234 rows (prefill: end of prompts)",
        ),
        *("audit off", "canary 0 wrong of 0 summaries (sample)", "3.0 MiB"),
    ):
        assert part in text, part


def test_what_fewer_heads_saved_stands_beside_the_tokens(
    serve: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that keep every token as a candidate and are scored by a quarter of the heads."""
    monkeypatch.setenv("COLUMNS", "200")
    one = receipt('{"preset": "balanced", "prefill_fraction": 1, "prefill_tokens": 16384}')
    one["rows"]["prefill"] = one["rows"]["decode"] | {"candidate_share": 1.0}
    assert main(["status", serve(one)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "prefill 2 rows, scored 100.0% of their context, by 0.25 of the heads beyond 16,384 tokens" in text
    assert text.count("of the heads") == 1, "decode rows are scored by all"


def test_json_and_exit_codes(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    good, wrong, idle = receipt(), receipt(), receipt()
    wrong["canary"] |= {"violations": 1, "checks": 5, "first": "page 7"}
    idle["active"] = False
    for given, code in (([good], 0), ([good, None], 2), ([None], 2), ([good, wrong], 2), ([idle], 2)):
        assert main(["status", serve(*given), "--json"]) == code
        told = json.loads(capsys.readouterr().out)
        assert told["receipts"] == given and told["active"] is (code == 0)
    assert main(["status", serve(wrong)]) == 2
    assert "1 wrong of 5 summaries (sample): page 7" in " ".join(capsys.readouterr().out.split())
    assert main(["status", serve(None)]) == 2 and "stock DSA" in capsys.readouterr().out


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "refused" in capsys.readouterr().err
