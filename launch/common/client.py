"""``sglang.benchmark.serving`` in one child process for many loads: its imports take 10 seconds."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sglang_hisa.launch.common import auth

GENERATOR = Path(__file__).with_name("generator.py")
"""Run with -P: the child needs SGLang alone on its path, and not the modules beside this one."""


class ClientFailed(RuntimeError):
    """The load generator gave no result; the message holds the end of its log."""


class TooLong(RuntimeError):
    """A load did not end in the time given to it."""


class Client:
    """The load generator's process (context manager).

    Args:
        env: its whole environment.
        log: file that takes its output.
        python: interpreter of the environment that has SGLang.
    """

    def __init__(self, env: Mapping[str, str], log: Path, python: str = sys.executable) -> None:
        self._log = log
        self._out = tempfile.TemporaryDirectory()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self._child = subprocess.Popen(
                [python, "-u", "-P", str(GENERATOR)],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=auth.child(env),
                text=True,
            )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._child.kill()
        self._child.wait()
        self._out.cleanup()

    def run(
        self,
        flags: Sequence[str],
        limit_s: float | None = None,
        fresh: str = "",
        prefix: tuple[str, int] | None = None,
        prompts: Sequence[tuple[str, int]] | None = None,
        hold: bool = False,
    ) -> dict[str, Any]:
        """Run one load; the benchmark's own result with its details of each request.

        An answer that is not whole is among its ``errors``, in the server's words, and gaps are those between
        tokens (:mod:`.generator`). ``arrivals``: seconds from the first request (conversation) to each;
        ``start_times``: seconds at which each of the requests was sent.

        After ``limit_s`` the child is killed, and with it the open requests; it takes no more loads.

        ``fresh``: prompts of token ids begin with 64 random ones that follow from this text and the prompt's
        number. The benchmark's own "random" prompts are runs of consecutive ids, as many as the vocabulary
        has, so two of them are sooner or later the same.

        ``prefix``: a text and a number of tokens. Every prompt gets that many random tokens before it, the
        same ones for the same text: a shorter prefix is the beginning of a longer one.

        ``prompts``: texts and the lengths of their answers, in place of those of the flags.

        ``hold``: the server is paused until it has taken in all requests (:mod:`.held`). Nobody else should
        use it.

        Raises:
            ClientFailed: the benchmark ended without a result.
            TooLong: it had not ended after ``limit_s`` seconds.
        """
        done, out = Path(self._out.name) / "done", Path(self._out.name) / "result.jsonl"
        done.unlink(missing_ok=True)
        out.unlink(missing_ok=True)
        own = ("--disable-tqdm", "--output-details", "--output-file", str(out))
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            job = {"argv": [*flags, *own], "done": str(done), "fresh": fresh, "prefix": prefix}
            print(json.dumps({**job, "prompts": prompts, "hold": hold}), file=self._child.stdin, flush=True)
        start = time.monotonic()
        while not done.exists():
            if limit_s is not None and time.monotonic() - start > limit_s:
                self._child.kill()
                raise TooLong(f"not done after {limit_s:.0f} s")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(0.05)
                break
        if not out.is_file():
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise ClientFailed(f"the load generator gave no result\n{tail}")
        return dict(json.loads(out.read_text().splitlines()[-1]))
