"""A server that answers as an arm does, without a model: ``python -m tests.launch.live.stub NAME ... PORT``.

A streamed answer sends ``max_new_tokens`` events, one each 0.1 s, and its end once there is no file named by
``STUB_HOLDS``; ``/metrics`` counts answers as SGLang does. Where ``STUB_KEY`` is set, all
else needs it as the API key.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

NAME, PORT = sys.argv[1], int(sys.argv[-1])
# The router looks for a tokenizer in the model's folder: this one has none, and no network is asked.
INFO = {
    **{"model_path": os.getcwd(), "served_model_name": "m", "status": "ready", "is_generation": True},
    **{"version": "0", "max_total_num_tokens": 64, "internal_states": [{}]},
}
LOCK = Lock()
done = running = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, text: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refused(self) -> bool:
        """SGLang's rule: 401 without the key, but for /health and /metrics."""
        key = os.environ.get("STUB_KEY")
        free = self.path.startswith(("/health", "/metrics"))
        if not key or free or self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def do_GET(self) -> None:
        if self.refused():
            return
        if self.path == "/metrics":
            metrics = {"num_requests_total": done, "num_running_reqs": running, "num_queue_reqs": 0}
            self.answer("".join(f"sglang:{name} {value}\n" for name, value in metrics.items()))
        else:
            self.answer(json.dumps(INFO))

    def do_POST(self) -> None:
        global done, running
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        with LOCK:
            running += 1
        if asked.get("stream"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for event in [*range(asked["sampling_params"]["max_new_tokens"]), "[DONE]"]:
                while event == "[DONE]" and os.path.exists(os.environ.get("STUB_HOLDS", "")):
                    time.sleep(0.02)
                data = f"data: {event}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                time.sleep(0.1)
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.answer(json.dumps({"text": NAME}))
        with LOCK:
            running, done = running - 1, done + 1


print(f"{NAME} serves as {os.getpid()}", flush=True)
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
