"""What a server takes: asked before anything is measured, so that no hour goes into requests it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_hisa.launch.common.server import fetch


@dataclass(frozen=True)
class Limits:
    """Of one server, None where it does not say.

    ``context``: tokens of a prompt and its answer; ``prompt``: a prompt has fewer tokens; ``pool``: tokens of
    the KV pool; ``running``: requests that run at a time.
    """

    context: int | None
    prompt: int | None
    pool: int | None
    running: int | None

    def refusal(self, input_tokens: int, output_tokens: int) -> str | None:
        """Why the server would refuse such a request; None: it takes it."""
        asked = f"a prompt of {input_tokens:,} tokens and an answer of {output_tokens:,}"
        if self.context is not None and input_tokens + output_tokens > self.context:
            return f"{asked} do not fit the server's context of {self.context:,} tokens (--context-length)"
        if self.prompt is not None and input_tokens >= self.prompt:
            return f"{asked}: the server takes prompts below {self.prompt:,} tokens (KV pool and context)"
        return None

    def crowding(self, input_tokens: int, output_tokens: int, concurrency: int) -> str | None:
        """Why such requests, ``concurrency`` open at a time, cannot all run at once; None: they can."""
        need = concurrency * (input_tokens + output_tokens)
        if self.running is not None and concurrency > self.running:
            at_once = f"of {concurrency} concurrent requests {self.running} run at a time"
            return f"{at_once}; the others wait in its queue"
        if self.pool is not None and need > self.pool:
            return (
                f"they need {need:,} tokens, its KV pool has {self.pool:,}; some requests wait in its queue"
            )
        return None


def ask(url: str, info: Mapping[str, Any] | None = None) -> Limits:
    """Limits by ``/server_info`` (``info``, where it was asked already) and ``/v1/models``.

    A server that names none of them, or does not answer, has no known limits: no ``OSError``.
    """
    if info is None:
        info = _get(url, "/server_info")
    models = _get(url, "/v1/models").get("data") or [{}]
    states = info.get("internal_states") or [{}]
    running = [
        info.get("max_running_requests"),
        *(state.get("effective_max_running_requests_per_dp") for state in states),
    ]
    known = [count for count in running if isinstance(count, int)]
    return Limits(
        models[0].get("max_model_len") or info.get("context_length"),
        info.get("max_req_input_len"),
        info.get("max_total_num_tokens"),
        min(known) if known and len(states) == 1 else None,
    )


def _get(url: str, path: str) -> Mapping[str, Any]:
    try:
        found = json.loads(fetch(url + path, timeout=20))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
