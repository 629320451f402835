"""A server of this machine that streams as SGLang does: several tokens a chunk, refusals with status 200."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REFUSAL = "The input (9000 tokens) is longer than the model's context length (4096 tokens)."
ABORT = {"type": "abort", "message": "the KV pool is full", "status_code": 503}


@dataclass
class Behaviour:
    """``step`` tokens a chunk, ``token_s`` seconds each; ``fault``: refuse, abort, break or short."""

    step: int = 1
    token_s: float = 0.0
    fault: str | None = None
    context: int = 4096


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        of = self.behaviour
        self.answer(
            {
                "/v1/models": {"data": [{"id": "m", "max_model_len": of.context}]},
                "/server_info": {
                    **{"version": "0", "model_path": "m", "internal_states": [{}]},
                    **{"max_total_num_tokens": 8192, "max_req_input_len": of.context - 6},
                    "max_running_requests": 4,
                },
            }.get(self.path, {})
        )

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
        if self.path == "/generate":
            return self.stream(given["sampling_params"]["max_new_tokens"], chat=False)
        if self.path == "/v1/chat/completions":
            options = given["stream_options"]
            assert options["include_usage"] and options["continuous_usage_stats"]
            return self.stream(given["max_completion_tokens"], chat=True)
        return self.answer({})

    def answer(self, data: dict[str, Any]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(data).encode())

    def event(self, data: Any) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        self.wfile.write(f"data: {text}\n\n".encode())
        self.wfile.flush()

    def stream(self, count: int, chat: bool) -> None:
        of = self.behaviour
        self.send_response(200)
        self.end_headers()
        if of.fault == "refuse":
            self.event({"error": {"message": REFUSAL, "code": 400}})
            return self.event("[DONE]")
        upto = count if of.fault is None else count // 2
        sent = 0
        while sent < upto:
            new = 1 if sent == 0 else min(of.step, upto - sent)
            time.sleep(new * of.token_s)
            sent += new
            if sent < upto:
                reason: Any = None
            else:
                reason = {"abort": ABORT, "break": None}.get(of.fault or "", {"type": "length"})
            self.event(self.chunk(sent, new, reason, chat))
        if of.fault != "break":
            self.event("[DONE]")

    def chunk(self, sent: int, new: int, reason: Any, chat: bool) -> dict[str, Any]:
        counts = {"prompt_tokens": 20, "completion_tokens": sent}
        if not chat:
            return {"text": "x" * sent, "meta_info": {**counts, "finish_reason": reason, "cached_tokens": 0}}
        choice = {"index": 0, "delta": {"content": "x" * new}, "finish_reason": reason and reason["type"]}
        return {"choices": [choice], "usage": counts}


@contextmanager
def streaming(behaviour: Behaviour) -> Iterator[str]:
    """Its URL, without a slash at the end."""
    handler = type("One", (Handler,), {"behaviour": behaviour})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
