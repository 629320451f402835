"""``sglang.benchmark.serving`` in one child process for all measurements: its imports take 10 seconds."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sglang_hisa.launch.ab.plan import Cell


class ClientFailed(RuntimeError):
    """The load generator gave no result; the message holds the end of its log."""


def arguments(url: str, model: str, cell: Cell, seed: int, out: str) -> list[str]:
    """The benchmark's flags: token ids of exact length, radix cache flushed before it."""
    return [
        *("--backend", "sglang", "--base-url", url, "--model", model, "--tokenizer", model),
        *("--dataset-name", "random-ids", "--tokenize-prompt", "--random-range-ratio", "1"),
        *("--random-input-len", str(cell.input_tokens), "--random-output-len", str(cell.output_tokens)),
        *("--num-prompts", str(cell.requests), "--max-concurrency", str(cell.concurrency)),
        *("--warmup-requests", "0", "--seed", str(seed), "--flush-cache", "--cache-report"),
        *("--disable-tqdm", "--output-details", "--output-file", out),
    ]


def summarise(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a benchmark result that a measurement of the record keeps; times in seconds."""
    gaps: list[list[float]] = result["itls"]
    kept = [len(error) == 0 for error in result["errors"]]
    return {
        "completed": result["completed"],
        "errors": sorted({error[-300:] for error in result["errors"] if error}),
        "input_lens": result["input_lens"],
        "output_lens": result["output_lens"],
        "ttft_s": [round(t, 6) for t, ok in zip(result["ttfts"], kept) if ok],
        "tpot_s": [round(statistics.fmean(g), 6) for g, ok in zip(gaps, kept) if ok and g],
        "itl_s": [round(t, 6) for g, ok in zip(gaps, kept) if ok for t in g],
        "output_tok_s": result["output_throughput"],
        "total_tok_s": result["total_throughput"],
        "duration_s": result["duration"],
        "cached_tokens": sum(result.get("cached_tokens", [])),
    }


class Client:
    """The load generator's process (context manager)."""

    def __init__(self, env: Mapping[str, str], log: Path, python: str = sys.executable) -> None:
        self._log = log
        self._out = tempfile.TemporaryDirectory()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            self._child = subprocess.Popen(
                [python, "-u", "-c", _SERVE_JOBS],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(env),
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

    def measure(self, url: str, model: str, cell: Cell, seed: int) -> dict[str, Any]:
        """Run one load; see :func:`summarise`.

        Raises:
            ClientFailed: the benchmark ended without a result.
        """
        done, out = Path(self._out.name) / "done", Path(self._out.name) / "result.jsonl"
        done.unlink(missing_ok=True)
        out.unlink(missing_ok=True)
        job = {"argv": arguments(url, model, cell, seed, str(out)), "done": str(done)}
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(job), file=self._child.stdin, flush=True)
        while not done.exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(0.05)
                break
        if not out.is_file():
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise ClientFailed(f"the load generator gave no result\n{tail}")
        return summarise(json.loads(out.read_text().splitlines()[-1]))


# Run with -c: the child needs SGLang alone on its path. A failed load (SystemExit too) must not end it.
_SERVE_JOBS = """
import json, pathlib, sys, traceback
from sglang.benchmark import serving
for line in sys.stdin:
    job = json.loads(line)
    sys.argv = ["sglang.benchmark.serving", *job["argv"]]
    try:
        serving.cli_main()
    except (Exception, SystemExit):
        traceback.print_exc()
    pathlib.Path(job["done"]).touch()
"""
