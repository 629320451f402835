"""Questions to an OpenAI-compatible server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from sglang_hisa.launch.common.refusal import message
from sglang_hisa.launch.common.server import fetch
from sglang_hisa.launch.eval.tasks import Sample


def model_name(url: str) -> str:
    """The first model that the server names. Raises ``OSError`` where it does not answer."""
    return str(json.loads(fetch(f"{url}/v1/models", timeout=30))["data"][0]["id"])


def complete(url: str, model: str, sample: Sample, timeout: float = 600) -> tuple[str, int]:
    """Greedy continuation, as long as the answer, and the prompt's length in the server's tokens.

    Raises:
        OSError: no answer, a refusal, or an answer that the server aborted; with the server's own words.
    """
    body = {
        "model": model,
        "prompt": sample.prompt,
        "max_tokens": len(sample.answer),
        "temperature": 0,
    }
    found = json.loads(fetch(f"{url}/v1/completions", body, timeout))
    if (refusal := message(found)) is not None:  # of status 200 all the same
        raise OSError(refusal)
    choice = found["choices"][0]
    if choice.get("finish_reason") == "abort":
        raise OSError(f"the server aborted an answer of a prompt of {found['usage']['prompt_tokens']} tokens")
    return str(choice["text"]), int(found["usage"]["prompt_tokens"])


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
