"""What a server says in its log and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median


def retractions(log: Path) -> int:
    """Requests that the server of ``log`` retracted for want of KV slots."""
    return sum(map(int, re.findall(r"#retracted_reqs: (\d+)", log.read_text(errors="replace"))))


def decoded(text: str, at_once: int) -> float | None:
    """Tokens a second of decode, the median of the lines with ``at_once`` requests.

    None of fewer than three: the first has the prefill before it in its time.
    """
    line = r"Decode batch.*?#running-req: (\d+).*?gen throughput \(token/s\): ([\d.]+)"
    rates = [float(rate) for running, rate in re.findall(line, text) if int(running) == at_once]
    return median(rates) if len(rates) >= 3 else None
