"""Where a record comes from (docs/design.md, records)."""

from __future__ import annotations

import datetime
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from sglang_hisa.launch.common import auth
from sglang_hisa.patches import contract


@dataclass(frozen=True)
class Provenance:
    """Machine, versions, commit, command and date (ISO 8601) of a run; None where there was no such thing."""

    gpu: str | None = None
    driver: str | None = None
    cpu: str | None = None
    python: str | None = None
    torch: str | None = None
    triton: str | None = None
    sglang: str | None = None
    deep_gemm: str | None = None
    sglang_kernel: str | None = None
    commit: str | None = None
    command: str | None = None
    date: str | None = None

    @property
    def day(self) -> str:
        return (self.date or "")[:10]

    @property
    def gpus(self) -> tuple[str, ...]:
        """Short names of the GPUs, ``H100``; ``CPU`` where there was none."""
        names = (self.gpu or "CPU").split(", ")
        return tuple(dict.fromkeys(name.removeprefix("NVIDIA ").split()[0] for name in names))


def together(origins: Iterable[Provenance]) -> Provenance:
    """One provenance for rows that have one each: lists of what differs, and the newest date."""
    every = list(origins)

    def listed(key: str) -> str | None:
        values = [getattr(one, key) for one in every]
        return ", ".join(dict.fromkeys(value for value in values if value)) or None

    return Provenance(
        gpu=listed("gpu"),
        sglang=listed("sglang"),
        torch=listed("torch"),
        commit=listed("commit"),
        date=max((one.date for one in every if one.date), default=None),
    )


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
    return output("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")  # not by a tag


def provenance() -> dict[str, str | None]:
    """The :class:`Provenance` of this run, as a record holds it."""
    gpu = output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    first = gpu.splitlines()[0].split(", ") if gpu else [None, None]
    here = Provenance(
        gpu=first[0],
        driver=first[1],
        cpu=platform.processor() or platform.machine(),
        python=platform.python_version(),
        torch=_version("torch"),
        triton=_version("triton"),
        sglang=contract.installed_version(),
        deep_gemm=_version("sgl-deep-gemm"),
        sglang_kernel=_version("sglang-kernel"),
        commit=commit(),
        command=shlex.join(auth.redacted(sys.argv)),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return asdict(here)
