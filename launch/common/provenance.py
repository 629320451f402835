"""Where a record comes from (docs/design.md, records)."""

from __future__ import annotations

import datetime
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from sglang_hisa.launch.common import auth
from sglang_hisa.patches import contract


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def output(*command: str) -> str | None:
    """What a command prints; None where it is missing or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, cwd=Path(__file__).parent, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> str | None:
    """What a ``COMMIT`` file beside pyproject.toml says (exported trees), or the commit of the checkout."""
    kept = Path(__file__).parents[2] / "COMMIT"
    if kept.is_file():
        return kept.read_text().strip()
    return output("git", "describe", "--always", "--dirty", "--abbrev=12")


def provenance() -> dict[str, Any]:
    """GPU, driver, versions, commit, command and date of this run."""
    gpu = output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    first = gpu.splitlines()[0].split(", ") if gpu else [None, None]
    return {
        "gpu": first[0],
        "driver": first[1],
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "triton": _version("triton"),
        "sglang": contract.installed_version(),
        "deep_gemm": _version("sgl-deep-gemm"),
        "sglang_kernel": _version("sglang-kernel"),
        "commit": commit(),
        "command": shlex.join(auth.redacted(sys.argv)),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
