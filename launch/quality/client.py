"""Questions to an OpenAI-compatible server."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from sglang_hisa.launch.quality.tasks import Sample

_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _request(url: str, body: dict[str, Any] | None, timeout: float) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with _LOCAL.open(request, timeout=timeout) as answer:
        return json.loads(answer.read())


def model_name(url: str) -> str:
    """The first model that the server names. Raises ``OSError`` where it does not answer."""
    return str(_request(f"{url}/v1/models", None, 30)["data"][0]["id"])


def complete(url: str, model: str, sample: Sample, timeout: float = 600) -> tuple[str, int]:
    """Greedy continuation, as long as the answer, and the prompt's length in the server's tokens.

    Raises:
        OSError: no answer, or a refusal.
    """
    body = {
        "model": model,
        "prompt": sample.prompt,
        "max_tokens": len(sample.answer),
        "temperature": 0,
    }
    found = _request(f"{url}/v1/completions", body, timeout)
    return str(found["choices"][0]["text"]), int(found["usage"]["prompt_tokens"])


def ask_all(
    url: str, samples: Sequence[tuple[int, Sample]], at_once: int
) -> Iterator[tuple[int, Sample, str, int]]:
    """Number, sample, text and prompt tokens of each, as they come; ``at_once`` in flight."""
    model = model_name(url)
    with ThreadPoolExecutor(at_once) as pool:
        jobs = {pool.submit(complete, url, model, sample): (n, sample) for n, sample in samples}
        try:
            for job in as_completed(jobs):
                text, tokens = job.result()
                yield (*jobs[job], text, tokens)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
