"""What ``hisa doctor`` looks at. Nothing here imports SGLang or starts a kernel."""

from __future__ import annotations

import importlib.util
import platform
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sglang_hisa
from sglang_hisa import config
from sglang_hisa import gpu as gpus
from sglang_hisa.config import ConfigError
from sglang_hisa.launch.cli import plugins, presets
from sglang_hisa.patches import contract, known, source
from sglang_hisa.patches.places import Patch
from sglang_hisa.patches.releases import NEWEST, OLDEST, RELEASES
from sglang_hisa.patches.table import ROWS
from sglang_hisa.patches.unreached import unreached

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
    releases: tuple[str, ...]
    """Releases that have it."""
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
    """Version and place of the SGLang that a server started here imports."""
    found = contract.unfit()
    if found is not None and not found.compared:
        return Finding("sglang", FAIL, "; ".join(found.reasons), found.fix)
    found_here = contract.read(contract.installed_root())
    return Finding("sglang", OK, f"{found_here.name} ({found_here.root}; written for {OLDEST} to {NEWEST})")


def _root() -> Path | None:
    """Folder of the SGLang that a server started here imports; None where there is none."""
    try:
        return contract.installed_root()
    except source.SourceError:
        return None


def check_copies() -> list[Finding]:
    """Metadata that speaks of another SGLang than the one that is imported, and copies that it hides."""
    root = _root()
    if root is None:
        return []
    version, records = contract.installed_version(), source.records()
    described = [record for record in records if record.describes(root)]
    findings = []
    told = ""
    if records and version and records[0].version != version:
        told = f"pip calls it {records[0].version}, but the source that is imported ({root}) is {version}"
    elif records and not described and source.own_version(root) is None:
        told = f"{root} tells no version, so SGLang takes {version} from the metadata of another copy"
    if told:
        findings.append(Finding("sglang metadata", WARN, told, source.agreeing(root)))
    hidden = ", ".join(map(str, source.others(root)))
    if hidden:
        told = f"servers started in this folder import {root}, and not {hidden}"
        other = (
            "pip uninstall sglang"
            if any(record.installed for record in described)
            else source.pass_over(root.parent)
        )
        findings.append(Finding("sglang copies", WARN, told, f"if another is meant: {other}"))
    return findings


def install(distribution: str) -> str:
    """The command that installs what SGLang, or torch, pins of ``distribution``, and nothing else."""
    for parent in ("sglang", "torch"):
        try:
            lines = metadata.requires(parent) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, lines):
            fits = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if fits and canonicalize_name(requirement.name) == distribution:
                return f"pip install --no-deps {shlex.quote(f'{distribution}{requirement.specifier}')}"
    return f"pip install --no-deps {distribution}"


def _library(name: str, gpu: Gpu | None, purpose: str, *distributions: str) -> Finding:
    version = version_of(*distributions)
    if version is not None:
        return Finding(name, OK, version)
    if gpu is None:
        return Finding(name, OK, f"not installed (not needed on a CPU: {purpose})")
    return Finding(name, WARN, f"not installed: {purpose}", install(distributions[0]))


def check_torch() -> Finding:
    """torch's version; one that is missing comes with what it needs."""
    version = version_of("torch")
    if version is not None:
        return Finding("torch", OK, version)
    known = source.records()
    fix = install("torch").replace("--no-deps ", "") if known else source.INSTALL
    return Finding("torch", FAIL, "not installed", fix)


def check_libraries(gpu: Gpu | None) -> list[Finding]:
    """torch, triton and the kernel libraries of stock DSA."""
    return [
        check_torch(),
        _library("triton", gpu, "HISA's kernels", "triton"),
        _library("flashinfer", gpu, "SGLang's attention and sampling", "flashinfer-python"),
        _library("deep_gemm", gpu, "stock indexer scores", "sgl-deep-gemm", "deep-gemm"),
        _library("sglang-kernel", gpu, "SGLang's CUDA kernels", "sglang-kernel", "sgl-kernel"),
        _library("torchvision", gpu, "SGLang imports it at start", "torchvision"),
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
        return Finding("GPU", FAIL, text, "serve on a GPU of compute capability 9.0 (Hopper) or newer")
    return _check_records(gpu, text)


def _current() -> config.Config:
    """What ``SGLANG_HISA`` asks for; the default where it is unset, or wrong (see :func:`check_config`)."""
    try:
        return config.from_env() or config.Config()
    except ConfigError:
        return config.Config()


def _check_records(gpu: Gpu, text: str) -> Finding:
    """Whether a record shows HISA on such a GPU, or ``SGLANG_HISA`` asks to serve on it all the same."""
    found = gpus.unverified(gpus.Gpu(gpu.name, gpu.capability))
    if not found:
        return Finding("GPU", OK, text)
    current = _current()
    if current.unverified_gpu:
        return Finding("GPU", WARN, f"unverified, served all the same: {found}")
    return Finding("GPU", FAIL, found, f"to serve on it all the same: {gpus.all_the_same(current)}")


def check_refine(gpu: Gpu | None) -> Finding:
    """Which kernels would score the candidates."""
    if gpu is None:
        return Finding("kernels", OK, "torch references (CPU)")
    if version_of("triton") is None:
        return Finding("kernels", FAIL, "HISA's kernels need triton", install("triton"))
    from sglang_hisa.kernels import tuning

    try:
        tuning.load(gpu.name)
    except tuning.TuningError as error:
        return Finding("kernels", FAIL, str(error), error.fix)
    tuned = tuning.tuned_file(gpu.name)
    launched = f"launched as {tuned.name} says" if tuned else "launched as on an H100"
    if version_of("sgl-deep-gemm", "deep-gemm") is None:
        return Finding("kernels", OK, f'Triton ({launched}); without DeepGEMM "refine" is "triton"')
    return Finding("kernels", OK, f"Triton ({launched}), and DeepGEMM to refine")


def patch_rows() -> list[PatchRow]:
    """The patch table with the problems that the installed SGLang has with each row."""
    problems = contract.check_installed()
    here = _taken()
    rows = []
    for row in ROWS:
        kind, why = (row.kind, row.why) if isinstance(row, Patch) else ("uses", row.relies or "called")
        targets = [place.target for place in row.places]
        mine = tuple(one for one in problems if one.partition(":")[0] in targets)
        releases = tuple(name for name in RELEASES if known.place(name, row) is not None)
        shown = next((target for target in targets if target in here), targets[0])
        rows.append(PatchRow(shown, kind, why, releases, mine))
    return rows


def _taken() -> frozenset[str]:
    """Places of the patch table that the installed SGLang has."""
    root = _root()
    if root is None:
        return frozenset()
    return frozenset(place.target for row in ROWS if (place := contract.place_of(root, row)[0]) is not None)


def check_patches() -> list[Finding]:
    """The patch table against the installed SGLang's source text: one finding a problem."""
    current = _current()
    found = contract.unfit(current)
    if found is not None and not found.compared:
        return [Finding("patch table", FAIL, "cannot be checked without an SGLang", "see sglang above")]
    if found is not None:
        return [Finding("patch table", FAIL, reason, found.fix) for reason in found.reasons]
    unknown = contract.read(contract.installed_root()).unknown
    if unknown:
        return [Finding("patch table", WARN, f"unverified, served all the same: {one}") for one in unknown]
    return [Finding("patch table", OK, f"{len(ROWS)} rows match the source of SGLang")]


def check_plugins(gpu: Gpu | None) -> list[Finding]:
    """Our entry points, SGLANG_PLUGINS, and plugins of others that may hook the same functions."""
    cpu = gpu is None or config.cpu_stand_ins_requested()
    needed = config.OUR_PLUGINS if cpu else config.OUR_PLUGINS[:1]
    findings = []
    for name, purpose in (("hisa", "HISA"), ("hisa_cpu", "the CPU stand-ins")):
        found = plugins.problem(name, list(dict.fromkeys((*needed, name))))
        if found is None:
            findings.append(Finding(f"plugin {name}", OK, f"SGLang will load {purpose}"))
        else:
            findings.append(Finding(f"plugin {name}", FAIL if name in needed else WARN, *found))
    allowed = config.plugin_whitelist()
    for other in plugins.installed():
        if other.name not in plugins.OURS and (allowed is None or other.name in allowed):
            findings.append(
                Finding(
                    f"plugin {other.name}",
                    WARN,
                    f"{other.distribution} hooks SGLang too ({other.value}); HISA checks its own patches "
                    "after all hooks are applied, but cannot judge what another plugin changes",
                    f"to load HISA alone: {config.only_ours(cpu)}",
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
        f"preset {name}, block {block}, decode {decode}, prefill {prefill}, end of a prompt {last}",
    )


def check_reach() -> list[Finding]:
    """Ways to run a model that ``SGLANG_HISA`` does not reach; nothing where it is unset."""
    if config.ENV not in config.environment():
        return []
    return [
        Finding("not reached", WARN, f"{row.typed}: loads no plugins, so it runs stock DSA", row.instead)
        for row in unreached(_root())
    ]


def diagnose(gpu: Gpu | None) -> list[Finding]:
    """All checks, in the order in which a person would look."""
    first: tuple[Callable[[], Finding], ...] = (check_python, check_package, check_sglang)
    return [
        *(check() for check in first),
        *check_copies(),
        *check_libraries(gpu),
        check_gpu(gpu),
        check_refine(gpu),
        *check_patches(),
        *check_plugins(gpu),
        check_config(),
        *check_reach(),
    ]
