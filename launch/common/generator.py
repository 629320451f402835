"""Run by :class:`client.Client` in a process of its own: SGLang's benchmark, and what each answer was.

The benchmark counts an answer with status 200 as one that it got, whatever stands in it, and takes the gap
between two chunks for the time of a token, except where it asks ``/generate``. Here every stream is watched
while the benchmark reads it: a refusal or a cut answer fails with the server's own words, and times are those
of tokens, which the server counts in each chunk.

Imports nothing of this project: its folder is not on the child's path.
"""

from __future__ import annotations

import json
import pathlib
import random
import runpy
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from sglang.benchmark import serving

_refusal = runpy.run_path(str(pathlib.Path(__file__).with_name("refusal.py")))
message, words = _refusal["message"], _refusal["words"]
_Held = runpy.run_path(str(pathlib.Path(__file__).with_name("held.py")))["Held"]


class Refused(Exception):
    """The server's own words."""


class Answer:
    """The stream of one request: when its tokens came, and how it ended."""

    def __init__(self) -> None:
        self.begin = self.last = time.perf_counter()
        self.ttft = 0.0
        self.gaps: list[float] = []
        self.tokens = self.prompt = 0
        self.counted = self.ended = False
        self.refusal: str | None = None
        self.reason = ""
        """The server's ``finish_reason``, with its words where it has some."""

    def take(self, line: bytes) -> None:
        """One line of the stream. Raises :class:`Refused`."""
        text = line.strip().removeprefix(b"data:").strip()
        if text == b"[DONE]":
            self.ended = True
        if not text.startswith(b"{"):
            return
        now, data = time.perf_counter(), orjson.loads(text)  # thousands a second
        self.refusal = message(data)
        if self.refusal is not None:
            raise Refused(self.refusal)  # to the benchmark, which then gives up the request
        meta = data.get("usage") or data.get("meta_info") or {}
        self.prompt = meta.get("prompt_tokens") or self.prompt
        if (count := meta.get("completion_tokens")) is not None:
            self.counted = True
            self._tokens(now, count - self.tokens)
        choices = data.get("choices") or [{}]
        if reason := meta.get("finish_reason") or choices[0].get("finish_reason"):
            kind, said = (reason["type"], reason.get("message")) if isinstance(reason, dict) else (reason, "")
            self.reason = f"{kind}: {said}" if said else str(kind)

    def _tokens(self, now: float, new: int) -> None:
        if new < 1:
            return
        if self.tokens:
            self.gaps += [(now - self.last) / new] * new
        else:
            self.ttft = now - self.begin
        self.last, self.tokens = now, self.tokens + new

    def problem(self, asked: int, whole: bool) -> str | None:
        """Why this is no whole answer of ``asked`` tokens; shorter ones are none if ``whole``."""
        if self.reason.startswith("abort"):
            return f"the server aborted the answer after {self.tokens} of {asked} tokens ({self.reason})"
        if not self.ended and not self.reason:
            return f"the stream broke off after {self.tokens} of {asked} tokens"
        if whole and self.counted and self.tokens < asked:
            return f"the server ended the answer after {self.tokens} of {asked} tokens ({self.reason})"
        return None


_ANSWER: ContextVar[Answer] = ContextVar("answer")


class _Watched:
    """A response's body whose lines its answer sees first."""

    def __init__(self, content: Any, answer: Answer) -> None:
        self._content, self._answer = content, answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for line in self._content:
            self._answer.take(line)
            yield line


_start = aiohttp.ClientResponse.start


async def _watch(self: aiohttp.ClientResponse, connection: Any) -> aiohttp.ClientResponse:
    found = await _start(self, connection)
    answer = _ANSWER.get(None)
    if answer is not None and self.status == 200:
        self.content = _Watched(self.content, answer)  # type: ignore[assignment]
    return found


def watched(ask: Callable[..., Any], job: Job) -> Callable[..., Any]:
    """``ask``, one of the benchmark's request functions, with tokens' times and whole answers only."""

    async def asked(request_func_input: Any, pbar: Any = None) -> Any:
        request = request_func_input  # the benchmark names its arguments
        if request.api_url.endswith("completions"):  # /generate counts tokens unasked
            options = {"include_usage": True, "continuous_usage_stats": True}
            request.extra_request_body = {**request.extra_request_body, "stream_options": options}
        answer = Answer()
        _ANSWER.set(answer)
        job.begun += 1
        output = await ask(request_func_input=request, pbar=pbar)
        whole = not serving.args.disable_ignore_eos
        # 0.5.17 gives each turn of a conversation the length of its first, and counts text itself.
        output.prompt_len = answer.prompt or output.prompt_len
        problem = answer.refusal or (
            answer.problem(request.output_len, whole) if output.success else words(output.error)
        )
        if problem:
            output.success, output.error = False, problem
            job.failed.append((output.prompt_len, problem))
            return output
        job.answered += 1
        if answer.counted:
            output.ttft, output.itl, output.output_len = answer.ttft, answer.gaps, answer.tokens
            output.start_time = answer.begin
            # The benchmark's own summary wants a text of at least a token for each gap.
            output.text_chunks = ["a"] * len(answer.gaps)
        return output

    return asked


@dataclass(frozen=True)
class Given:
    """A line of stdin: :meth:`client.Client.run`'s arguments, and the file that says when it is done."""

    argv: list[str]
    done: str
    fresh: str = ""
    prefix: tuple[str, int] | None = None
    prompts: list[tuple[str, int]] | None = None
    hold: bool = False


class Job:
    """One run of the benchmark: its flags, its prompts' beginnings, when its requests arrived."""

    def __init__(self) -> None:
        self.given = Given([], "")
        self.arrivals: list[float] = []
        self.starts: list[float] = []
        """When each request was sent, in the order of the result."""
        self.begun = self.answered = 0
        self.failed: list[tuple[int, str]] = []
        """Prompt tokens and reason of each request that failed."""
        self._held: Any = None
        self._get_dataset, self._get_request = serving.get_dataset, serving.get_request
        self._measure = serving.calculate_metrics

    def get_dataset(self, args: Any, tokenizer: Any, *more: Any) -> Any:
        """The benchmark's prompts, or those of the job.

        With ``fresh``, prompts of ids begin with 64 random ones of their own; then comes a shared ``prefix``.
        """
        if self.given.prompts is not None:
            made = [(text, len(tokenizer.encode(text)), out) for text, out in self.given.prompts]
            return [
                serving.DatasetRow(prompt=text, prompt_len=size, output_len=out) for text, size, out in made
            ]
        rows = self._get_dataset(args, tokenizer, *more)
        fresh, prefix = self.given.fresh, self.given.prefix
        for number, row in enumerate(rows if fresh else ()):
            if isinstance(row.prompt, list) and isinstance(row.prompt[0], int):
                draw = random.Random(f"{fresh} {number}")
                row.prompt[:64] = [draw.randrange(tokenizer.vocab_size) for _ in row.prompt[:64]]
        if prefix:
            text, count = prefix
            draw = random.Random(text)
            shared = [draw.randrange(tokenizer.vocab_size) for _ in range(count)]
            for row in rows:
                row.prompt = shared + row.prompt
                row.prompt_len += count
        return rows

    def calculate_metrics(self, *args: Any, **named: Any) -> Any:
        """The benchmark's own summary; keeps what it leaves out of its result."""
        self.starts = [output.start_time for output in named["outputs"]]
        return self._measure(*args, **named)

    async def get_request(self, *args: Any, **more: Any) -> AsyncIterator[Any]:
        """The benchmark's requests, each at its moment; with ``hold`` none of them begins before the last."""
        if self._held is not None:
            await self._held.begin()
        async for request in self._get_request(*args, **more):
            self.arrivals.append(time.perf_counter())
            yield request
        if self._held is not None:
            self._held.end_after(lambda: self.begun == len(self.arrivals))

    def run(self, given: Given) -> None:
        """A failed load (SystemExit too) must not end the process."""
        self.given, self.arrivals, self.starts, self.failed = given, [], [], []
        self.begun = self.answered = 0
        url = given.argv[given.argv.index("--base-url") + 1] if given.hold else None
        self._held = _Held(url, serving.get_auth_headers()) if url else None
        sys.argv = ["sglang.benchmark.serving", *given.argv]
        out = pathlib.Path(given.argv[given.argv.index("--output-file") + 1])
        try:
            serving.cli_main()
            found = json.loads(out.read_text().splitlines()[-1])
        except (Exception, SystemExit):
            traceback.print_exc()
            if self.answered or not self.failed:
                return
            found = self._nothing()  # the benchmark's summary fails where every request did
        finally:
            if self._held is not None:
                self._held.end()
        begin = self.arrivals[0] if self.arrivals else 0.0
        more = {"arrivals": [moment - begin for moment in self.arrivals], "start_times": self.starts}
        out.write_text(json.dumps({**found, **more}))

    def _nothing(self) -> dict[str, object]:
        """A result of failed requests alone."""
        count = len(self.failed)
        return {
            "completed": 0,
            "duration": time.perf_counter() - self.arrivals[0],
            "output_throughput": 0.0,
            "total_throughput": 0.0,
            "errors": [error for _, error in self.failed],
            "input_lens": [tokens for tokens, _ in self.failed],
            "output_lens": [0] * count,
            "ttfts": [0.0] * count,
            "itls": [[] for _ in range(count)],
            "cached_tokens": [0] * count,
        }


def main() -> None:
    """A job a line of stdin; each is done when its file ``done`` is there."""
    job = Job()
    serving.get_dataset, serving.get_request = job.get_dataset, job.get_request
    serving.calculate_metrics = job.calculate_metrics
    aiohttp.ClientResponse.start = _watch  # type: ignore[method-assign]
    for name, ask in serving.ASYNC_REQUEST_FUNCS.items():
        serving.ASYNC_REQUEST_FUNCS[name] = watched(ask, job)
    for line in sys.stdin:
        given = Given(**json.loads(line))
        job.run(given)
        pathlib.Path(given.done).touch()


if __name__ == "__main__":
    main()
