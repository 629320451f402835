"""What ``hisa doctor`` looks at. Nothing here imports SGLang or starts a kernel."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import sglang_hisa
from sglang_hisa import config
from sglang_hisa import gpu as gpus
from sglang_hisa.cli import plugins, presets
from sglang_hisa.config import ConfigError
from sglang_hisa.patches import contract
from sglang_hisa.patches.table import PATCHES, USES, VERSIONS, Patch, Use

OK, WARN, FAIL = "ok", "warn", "FAIL"
_HOPPER = (9, 0)


@dataclass(frozen=True)
class Finding:
    """One result: ``level`` is ok, warn or FAIL; ``fix`` says what to do, empty when nothing is."""

    check: str
    level: str
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Gpu:
    """The first CUDA GPU as torch reports it; ``count`` is how many there are."""

    name: str
    capability: tuple[int, int]
    count: int


@dataclass(frozen=True)
class PatchRow:
    """One row of the patch table (``kind`` "uses": called, not patched) and its problems here."""

    target: str
    kind: str
    why: str
    versions: tuple[str, ...]
    problems: tuple[str, ...]


def find_gpu() -> Gpu | None:
    """The CUDA GPU that torch sees. Imports torch (seconds); None without torch or GPU."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return Gpu(torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0), torch.cuda.device_count())


def version_of(*names: str) -> str | None:
    """Version of the first installed distribution among ``names``."""
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def check_python() -> Finding:
    """Python's version; pip has checked it against ours."""
    return Finding("python", OK, f"{platform.python_version()} ({sys.executable})")


def check_package() -> Finding:
    """Whether the code that runs now is the distribution that SGLang's process will import."""
    here = Path(sglang_hisa.__file__).parent
    installed = version_of("sglang-hisa")
    if installed not in (None, sglang_hisa.__version__):
        return Finding(
            "sglang-hisa",
            WARN,
            f"{sglang_hisa.__version__} runs here ({here}), but {installed} is installed",
            "reinstall: pip install --no-deps . (or leave the checkout's folder)",
        )
    return Finding("sglang-hisa", OK, f"{sglang_hisa.__version__} ({here})")


def check_sglang() -> Finding:
    """SGLang's version."""
    version = contract.installed_version()
    supported = ", ".join(VERSIONS)
    if version in VERSIONS:
        return Finding("sglang", OK, f"{version} (supported: {supported})")
    found = "not installed" if version is None else f"{version} is not supported"
    return Finding("sglang", FAIL, f"{found}; supported: {supported}", f"pip install sglang=={VERSIONS[-1]}")


def _library(name: str, gpu: Gpu | None, purpose: str, *distributions: str) -> Finding:
    version = version_of(*distributions)
    if version is not None:
        return Finding(name, OK, version)
    if gpu is None:
        return Finding(name, OK, f"not installed (not needed on a CPU: {purpose})")
    return Finding(
        name, WARN, f"not installed: {purpose}", f"pip install {distributions[0]}, as SGLang pins it"
    )


def check_libraries(gpu: Gpu | None) -> list[Finding]:
    """torch, triton and the kernel libraries of stock DSA."""
    torch = version_of("torch")
    torch_fix = "install SGLang with its own torch: pip install sglang"
    return [
        Finding("torch", OK, torch) if torch else Finding("torch", FAIL, "not installed", torch_fix),
        _library("triton", gpu, "HISA's kernels", "triton"),
        _library("flashinfer", gpu, "SGLang's attention and sampling", "flashinfer-python"),
        _library("deep_gemm", gpu, "stock indexer scores", "sgl-deep-gemm", "deep-gemm"),
        _library("sglang-kernel", gpu, "SGLang's CUDA kernels", "sglang-kernel", "sgl-kernel"),
    ]


def check_gpu(gpu: Gpu | None) -> Finding:
    """GPU and whether SGLang serves DSA on it."""
    if gpu is None:
        return Finding(
            "GPU",
            WARN,
            "torch sees no CUDA GPU: only tiny models can be served",
            "try it on the CPU with `hisa demo`; serve on an NVIDIA GPU of compute capability 9.0 or newer",
        )
    text = f"{gpu.count} x {gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
    if gpu.capability < _HOPPER:
        return Finding("GPU", FAIL, text, "DSA kernels need compute capability 9.0 (Hopper) or newer")
    return _check_records(gpu, text)


def _check_records(gpu: Gpu, text: str) -> Finding:
    """Whether a record shows HISA on such a GPU, or ``SGLANG_HISA`` asks to serve on it all the same."""
    found = gpus.unverified(gpus.Gpu(gpu.name, gpu.capability))
    if not found:
        return Finding("GPU", OK, text)
    try:
        current = config.from_env() or config.Config()
    except ConfigError:  # reported by check_config
        current = config.Config()
    if current.unverified_gpu:
        return Finding("GPU", WARN, f"unverified, served all the same: {found}")
    return Finding("GPU", FAIL, found, f"to serve on it all the same: {gpus.all_the_same(current)}")


def check_refine(gpu: Gpu | None) -> Finding:
    """Which kernels would score the candidates."""
    if gpu is None:
        return Finding("kernels", OK, "torch references (CPU)")
    if version_of("triton") is None:
        return Finding("kernels", FAIL, "HISA's kernels need triton", "pip install triton, as torch pins it")
    from sglang_hisa.kernels import settings

    try:
        settings.load(gpu.name)
    except ValueError as error:
        return Finding("kernels", FAIL, "launch settings of this GPU", str(error))
    tuned = settings.tuned_file(gpu.name)
    launched = f"launched as {tuned.name} says" if tuned else "launched as on an H100"
    if version_of("sgl-deep-gemm", "deep-gemm") is None:
        return Finding("kernels", OK, f'Triton ({launched}); without DeepGEMM "refine" is "triton"')
    return Finding("kernels", OK, f"Triton ({launched}), and DeepGEMM to refine")


def patch_rows() -> list[PatchRow]:
    """The patch table with the problems that the installed SGLang has with each row."""
    problems = contract.check_installed()
    table: tuple[Patch | Use, ...] = (*PATCHES, *USES)
    rows = []
    for row in table:
        if isinstance(row, Patch):
            kind, why, versions = row.kind, row.why, tuple(row.params)
        else:
            kind, why, versions = "uses", "called, not patched", tuple(row.params) or VERSIONS
        mine = tuple(problem for problem in problems if problem.startswith(f"{row.target}:"))
        rows.append(PatchRow(row.target, kind, why, versions, mine))
    return rows


def check_patches() -> list[Finding]:
    """The patch table against the installed SGLang's source text: one finding a problem."""
    if contract.installed_version() not in VERSIONS:
        return [
            Finding("patch table", FAIL, "cannot be checked without a supported SGLang", "see sglang above")
        ]
    problems = contract.check_installed()
    fix = f"this SGLang's source differs from the release; reinstall it or use {' or '.join(VERSIONS)}"
    if problems:
        return [Finding("patch table", FAIL, problem, fix) for problem in problems]
    return [Finding("patch table", OK, f"{len(PATCHES) + len(USES)} rows match the source of SGLang")]


def check_plugins(gpu: Gpu | None) -> list[Finding]:
    """Our entry points, SGLANG_PLUGINS, and plugins of others that may hook the same functions."""
    findings = []
    for name, purpose in (("hisa", "HISA"), ("hisa_cpu", "the CPU stand-ins")):
        found = plugins.problem(name)
        if found is None:
            findings.append(Finding(f"plugin {name}", OK, f"SGLang will load {purpose}"))
        else:
            needed = name == "hisa" or gpu is None
            findings.append(Finding(f"plugin {name}", FAIL if needed else WARN, *found))
    allowed = config.plugin_whitelist()
    for other in plugins.installed():
        if other.name not in plugins.OURS and (allowed is None or other.name in allowed):
            findings.append(
                Finding(
                    f"plugin {other.name}",
                    WARN,
                    f"{other.distribution} hooks SGLang too ({other.value}); HISA checks its own patches "
                    "after all hooks are applied, but cannot judge what another plugin changes",
                    "to load HISA alone: export SGLANG_PLUGINS=hisa",
                )
            )
    return findings


def check_config() -> Finding:
    """``SGLANG_HISA`` and what it resolves to."""
    try:
        current = config.from_env()
    except ConfigError as error:
        return Finding(config.ENV, FAIL, str(error), f"correct it, or unset {config.ENV} to serve stock DSA")
    if current is None:
        return Finding(config.ENV, OK, "unset: SGLang serves stock DSA; `hisa serve` sets it")
    name, block, decode, prefill, last = presets.row(current)
    return Finding(
        config.ENV,
        OK,
        f"preset {name}, block {block}, decode {decode}, prefill {prefill}, last prefill chunk {last}",
    )


def diagnose(gpu: Gpu | None) -> list[Finding]:
    """All checks, in the order in which a person would look."""
    first: tuple[Callable[[], Finding], ...] = (check_python, check_package, check_sglang)
    return [
        *(check() for check in first),
        *check_libraries(gpu),
        check_gpu(gpu),
        check_refine(gpu),
        *check_patches(),
        *check_plugins(gpu),
        check_config(),
    ]
