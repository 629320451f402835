"""What a port does, asked without sending a request."""

import socket
import time


def wait_refused(port: int, timeout: float = 60) -> None:
    """Return once nothing listens on ``port`` of 127.0.0.1; ``TimeoutError`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return
        time.sleep(0.02)
    raise TimeoutError(f"port {port} still takes connections after {timeout} s")
