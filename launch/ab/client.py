"""One load of a cell: the benchmark's flags, and what is kept of its result."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from sglang_hisa.launch.ab.plan import Cell


def arguments(url: str, model: str, cell: Cell, seed: int) -> list[str]:
    """The benchmark's flags: token ids of exact length, radix cache flushed before it.

    A shared prefix comes from :meth:`Client.run`, and is to stay in the cache.
    """
    found = [
        *("--backend", "sglang", "--base-url", url, "--model", model, "--tokenizer", model),
        *("--dataset-name", "random-ids", "--tokenize-prompt", "--random-range-ratio", "1"),
        *("--random-input-len", str(cell.own_tokens), "--random-output-len", str(cell.output_tokens)),
        *("--num-prompts", str(cell.requests), "--max-concurrency", str(cell.concurrency)),
        *("--warmup-requests", "0", "--seed", str(seed), "--cache-report"),
    ]
    return found if cell.prefix_tokens else [*found, "--flush-cache"]


def summarise(result: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a benchmark result that a measurement of the record keeps; times in seconds."""
    gaps: list[list[float]] = result["itls"]
    kept = [len(error) == 0 for error in result["errors"]]
    return {
        "completed": result["completed"],
        "errors": sorted({error for error in result["errors"] if error}),
        "input_lens": result["input_lens"],
        "output_lens": result["output_lens"],
        "ttft_s": [round(t, 6) for t, ok in zip(result["ttfts"], kept) if ok],
        "tpot_s": [round(statistics.fmean(g), 6) for g, ok in zip(gaps, kept) if ok and g],
        "itl_s": [round(t, 6) for g, ok in zip(gaps, kept) if ok for t in g],
        "output_tok_s": result["output_throughput"],
        "total_tok_s": result["total_throughput"],
        "duration_s": result["duration"],
        "cached_tokens": sum(cached := list(result.get("cached_tokens", []))),
        "cached": cached,
    }
