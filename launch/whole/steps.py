"""The steps of a run on N GPUs, each a few commands that may be cut off and called again."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sglang_hisa.launch.acceptance import whole
from sglang_hisa.launch.acceptance.cases import DRAFTS, dp, tp

NUMBERS = {1: "one", 2: "two", 4: "four", 8: "eight"}
"""Numbers of GPUs that a run may have."""
ALONE = "8k:1,4 32k:1,4 128k:1,4"
SHARED = "128k+64:32,64"
ACCEPTED = {"SGLANG_SIMULATE_ACC_LEN": "2"}
"""A verify step takes two tokens of four: the drafts of made-up weights say nothing of real ones."""
_CPU_PD = {
    "SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX": "0",  # waits for a CUDA event
    "SGLANG_DISAGGREGATION_HEARTBEAT_MAX_FAILURE": "1000",  # a slow server is not a dead one
}
_CPU_ARMS = "stock," + ",".join(
    f"{preset}={preset}:" + ":".join(f"{key}={value}" for key, value in whole.SMALL.items())
    for preset in whole.PRESETS
)


@dataclass(frozen=True)
class Run:
    """On what, and where the results go.

    Args:
        gpus: how many; one of ``NUMBERS``.
        gpu_mib: memory of each.
        out: folder of the records, models and logs.
        cpu: a rehearsal with the tiny model, a rank for each GPU.
        rounds: of each A/B; three give a verdict.
        plugins: ``tests/plugins`` of a checkout.
    """

    gpus: int
    gpu_mib: int
    out: Path
    cpu: bool = False
    rounds: int = 1
    plugins: Path = Path("tests/plugins")

    @property
    def record(self) -> Path:
        """Takes the rows of acceptance."""
        return self.out / f"{NUMBERS[self.gpus]}-gpu.json"


@dataclass(frozen=True)
class Step:
    """``commands`` run one after another, in the environment with ``env`` added."""

    name: str
    shows: str
    commands: tuple[tuple[str, ...], ...]
    env: Mapping[str, str] = field(default_factory=dict)


def steps(run: Run) -> list[Step]:
    """Those that matter most come first."""
    found = [_ranks(run, "tp"), _ab(run, "ab", f"{ALONE} {SHARED}")]
    if run.gpus > 1:
        found += [_ranks(run, "dp"), _ranks(run, "pd")]
    found.append(_ab(run, "ab-mtp", f"{ALONE} {SHARED}", drafts=True))
    if run.gpus > 1:
        # A shared prefix would be in the cache of the one rank that warmed it up.
        found += [_ab(run, "ab-dp", ALONE, apart=True), *_small(run)]
    return found


def _acceptance(run: Run, *more: str) -> tuple[str, ...]:
    base = (sys.executable, "-m", "sglang_hisa.launch.acceptance", "--gpus", str(run.gpus), "--missing")
    cpu = ("--cpu",) if run.cpu else ()
    return (*base, "--timeout", "560", "--out", str(run.record), *cpu, *more)


def _apart(run: Run) -> dict[str, str]:
    """Environment of a prefill and a decode server."""
    local = {"SGLANG_HOST_IP": "127.0.0.1"}
    return {**local, **_CPU_PD, "PYTHONPATH": str((run.plugins / "pd").resolve())} if run.cpu else local


def _ranks(run: Run, kind: str) -> Step:
    """``tp``, ``dp`` or ``pd`` of the whole model."""
    names = [name for name in whole.cases(run.gpus) if name.startswith(f"whole-{kind}")]
    backend = "mooncake" if run.cpu else "nixl"
    given = ("--whole", str(run.plugins / "receipts"), "--backend", backend, "--cases", *names)
    env = _apart(run) if kind == "pd" else {}
    shows = {"tp": "tensor parallelism", "dp": "DP attention", "pd": "prefill and decode server"}[kind]
    return Step(kind, f"{shows}: every rank prunes, all say the same", (_acceptance(run, *given),), env)


def _ab(run: Run, name: str, cells: str, apart: bool = False, drafts: bool = False) -> Step:
    """An A/B of stock and both presets, servers one after another.

    ``apart``: with DP attention; ``drafts``: with speculative decoding (MTP).
    """
    hisa = (sys.executable, "-m", "sglang_hisa.launch.cli")
    more: tuple[str, ...] = (*(dp(run.gpus) if apart else tp(run.gpus)), *(DRAFTS if drafts else ()))
    env: dict[str, str] = {}
    if run.cpu:
        model = run.out / ("model-tiny-mtp" if drafts else "model-tiny")
        make = (*hisa, "model", "tiny", *(("--draft",) if drafts else ()), str(model))
        cells = "300:1,2" if apart else "300:1,2 256+16:2"
        given: tuple[str, ...] = ("--cpu", "--arms", _CPU_ARMS, "--cells", cells, "--output-tokens", "16")
        more = (*more, "--chunked-prefill-size", str(256 * (run.gpus if apart else 1)))
        if run.gpus > 1:
            env["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join("0" * run.gpus)
    else:
        layers = whole.layers(run.gpus, run.gpu_mib, run.gpus if apart else 1, drafts)
        model = run.out / f"model-v32-{layers}l"
        make = (*hisa, "model", "slice", "v32", str(model), "--layers", str(layers))
        arms = ",".join(("stock", *whole.PRESETS))
        given = ("--arms", arms, "--cells", cells, "--output-tokens", "64", "--warmup-tokens", "40k")
        more = (*whole.SERVED, *more)
        env |= {"HF_HUB_OFFLINE": "1", **whole.GPU_ENV, **(ACCEPTED if drafts else {})}
    out = run.out / f"ab-{run.gpus}-gpu{name.removeprefix('ab')}"
    command = (*hisa, "ab", "--resume", "--timeout", "560", "--quality", "0", "--rounds", str(run.rounds))
    shows = "times of stock and both presets" + ", DP attention" * apart + ", drafts (MTP)" * drafts
    return Step(name, shows, (make, (*command, *given, "--out", str(out), str(model), *more)), env)


def _small(run: Run) -> list[Step]:
    """The small models of acceptance, whose answers depend on what was pruned."""
    backend = "mooncake" if run.cpu else "nixl"
    found = [
        Step("cases", "small models beside stock", (_acceptance(run, "--seconds", "420"),)),
        Step("choices", "all ranks choose alike", (_acceptance(run, "--ranks", str(run.plugins / "ranks")),)),
        Step(
            "sides", "prefill and decode server", (_acceptance(run, "--disaggregate", backend),), _apart(run)
        ),
    ]
    if run.gpus == 2:
        given = ("--chunks", str(run.plugins / "steps"))
        found.append(Step("chunks", "decode beside a peer's prefill", (_acceptance(run, *given),)))
    return found
