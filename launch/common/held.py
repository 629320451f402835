"""Requests that begin together: a server is paused until it has taken in the last of them.

SGLang reads, parses and checks a request before it looks whether it is paused (``TokenizerManager``), and
takes half a millisecond for each thousand tokens of it. The first ones would decode, and end, meanwhile.
Loaded by ``generator.py``, so nothing of this project is imported.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import urllib.request
from collections.abc import Callable, Mapping

import aiohttp

TRIES = 5
"""Answers in a row that a server without work must give as fast as before."""
EVERY_S = 0.1
SLOWER, LEAST_S = 5.0, 0.02
"""An answer is as fast as before up to this multiple of it, and up to this time in any case."""
LIMIT_S = 120.0
"""The server goes on after that, whatever it still has to do."""


class Held:
    """A server at ``url`` that waits (``headers``: what its API key needs)."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = url, {**headers, "Content-Type": "application/json"}
        self._task: asyncio.Task[None] | None = None
        self._fast = 0.0
        self.paused = False

    async def begin(self) -> None:
        """Pause the server; one that cannot be paused is left running, and the log says so."""
        try:
            async with aiohttp.ClientSession(headers=self._headers) as session:
                before = [await self._answered(session) for _ in range(TRIES)]
                self._fast = max(LEAST_S, SLOWER * statistics.median(before))
                async with session.post(
                    f"{self._url}/pause_generation", data=b'{"mode": "in_place"}'
                ) as answer:
                    answer.raise_for_status()
            self.paused = True
        except (aiohttp.ClientError, OSError) as error:
            print(f"the server was not paused, and requests begin as they come: {error!r}", flush=True)

    def end_after(self, sent: Callable[[], bool]) -> None:
        """Let the server go on once all is ``sent`` and it has no more work with it."""
        if self.paused:
            self._task = asyncio.create_task(self._end_after(sent))

    async def _end_after(self, sent: Callable[[], bool]) -> None:
        limit, row = time.monotonic() + LIMIT_S, 0
        async with aiohttp.ClientSession(headers=self._headers) as session:
            while row < TRIES and time.monotonic() < limit:
                await asyncio.sleep(EVERY_S)
                try:
                    fast = await self._answered(session) <= self._fast
                except (aiohttp.ClientError, OSError):
                    break
                row = row + 1 if fast and sent() else 0
        await asyncio.to_thread(self.end)

    async def _answered(self, session: aiohttp.ClientSession) -> float:
        """Seconds until a small answer came."""
        begin = time.monotonic()
        async with session.get(f"{self._url}/model_info") as answer:
            await answer.read()
        return time.monotonic() - begin

    def end(self) -> None:
        """Let the server go on, if it waits; one that has ended is left alone, since its requests tell."""
        request = urllib.request.Request(f"{self._url}/continue_generation", b"{}", self._headers)
        for _ in range(TRIES if self.paused else 0):
            try:
                with urllib.request.urlopen(request, timeout=30):
                    self.paused = False
                    return
            except OSError as error:
                print(f"the server was not told to go on: {error!r}", flush=True)
                time.sleep(EVERY_S)
