"""sglang-router as a child process: one port in front of both arms."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sglang_hisa import config
from sglang_hisa.launch.common.server import Progress, ServerFailed, ServerProcess, free_port
from sglang_hisa.launch.live import keyed_router

MODULE = "sglang_router"
MISSING = (
    "hisa ab --live needs sglang-router and prometheus-client: pip install sglang-router prometheus-client"
)
_CUT = 10
"""Seconds that the router may take to end after the requests that it no longer waits for."""


def installed() -> bool:
    """Whether the extra ``live`` is there."""
    return all(importlib.util.find_spec(name) is not None for name in (MODULE, "prometheus_client"))


def flags(workers: Sequence[str], drain_s: float) -> list[str]:
    """The router's flags without host and port."""
    return [
        *("--worker-urls", *workers, "--policy", "round_robin", "--worker-startup-check-interval", "1"),
        # /health of SGLang generates a token; a scheduler that hangs ends itself (its watchdog).
        *("--health-check-endpoint", "/model_info", "--health-check-interval-secs", "2"),
        *("--health-failure-threshold", "1", "--health-success-threshold", "1"),
        # A dead one refuses at once; one that is slow to answer would change the shares.
        *("--health-check-timeout-secs", "30"),
        # An arm that died holds all places but one at most: as many tries reach the other arm.
        *("--retry-max-retries", str(len(workers) + 1), "--retry-max-backoff-ms", "500"),
        # Would turn an arm's errors into another share of the traffic.
        "--disable-circuit-breaker",
        *("--shutdown-grace-period-secs", str(math.ceil(drain_s))),
        *("--request-timeout-secs", "86400"),  # SGLang itself has no limit
        *("--history-backend", "none", "--log-level", "warn"),
        *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())),
    ]


class Router(ServerProcess):
    """The router in front of ``workers`` (context manager); asked to end it finishes what it has accepted.

    ``key``: the API key that the workers ask for, which the router then asks its users for; empty: none.
    """

    def __init__(
        self,
        workers: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        host: str,
        port: int,
        drain_s: float,
        key: str = "",
    ) -> None:
        given = flags(workers, drain_s)
        env = {**env, config.ENV_KEY: key}
        super().__init__(given, env=env, log=log, host=host, port=port, module=keyed_router.__name__)
        self._workers = len(workers)
        self._drain_s = drain_s

    def wait_routing(self, timeout: float = 120, progress: Progress | None = None) -> None:
        """Wait until every place of the round is filled: before that the shares are wrong.

        Raises:
            ServerFailed: the router ended, or was not ready in time.
        """
        self.wait_ready(timeout, progress)
        deadline = time.monotonic() + timeout
        while True:
            state = self.request("/readiness", timeout=5)
            if state["healthy_workers"] == self._workers:
                return
            if self.exit_code() is not None or time.monotonic() > deadline:
                raise ServerFailed(f"the router has {state} of {self._workers} places\n{self.tail()}")
            time.sleep(0.1)

    def drain(self, progress: Callable[[float], object]) -> bool:
        """Stop listening, and wait for accepted requests; ``progress`` gets the seconds, now and then.

        Returns:
            Whether all of them ended by themselves: False where the time was over.
        """
        self.ask_to_end()
        begin, told = time.monotonic(), 0.0
        while self.exit_code() is None:
            elapsed = time.monotonic() - begin
            if elapsed > self._drain_s + _CUT:
                return False
            if elapsed >= told:
                told = elapsed + 2
                progress(elapsed)
            time.sleep(0.05)
        return time.monotonic() - begin < self._drain_s
