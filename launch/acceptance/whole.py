"""DeepSeek-V3.2 as it is served, on all GPUs of a machine: every rank prunes, and all ranks say the same.

All 61 layers in fp8 with made-up weights, or as many as fit, with SGLang's default flags: tensor parallelism
(TP), DP attention with its divided chunk, and a prefill and a decode server on half of the GPUs each. A test
plugin (``tests/plugins/receipts`` of a checkout) has every rank write its receipt. Answers are not compared:
those of made-up weights do not depend on what was pruned. Times are ``hisa ab``'s (:mod:`..whole`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sglang_hisa.launch.acceptance import pd
from sglang_hisa.launch.acceptance.case_run import Machine, row_of
from sglang_hisa.launch.acceptance.cases import Case, dp, tp
from sglang_hisa.launch.acceptance.probes import NOT_PRUNED, checked_receipt
from sglang_hisa.launch.acceptance.record import CaseRow, Facts, KeptReceipt
from sglang_hisa.launch.common import fit, models, server
from sglang_hisa.launch.common.provenance import output
from sglang_hisa.launch.common.receipts import Receipt
from sglang_hisa.launch.common.server import ServerProcess, with_plugin
from sglang_hisa.launch.common.serving import prompt
from sglang_hisa.launch.common.typed import read

PRESETS = ("balanced", "paper")
SERVED = ("--load-format", "dummy", "--grammar-backend", "none", "--skip-server-warmup")
"""Flags of every server on a GPU beside model and parallelism; all else is SGLang's default."""
GPU_ENV = {"SGLANG_JIT_DEEPGEMM_FAST_WARMUP": "1"}
"""DeepGEMM compiles 3,000 kernels of each shape before it serves instead of 16,000."""
POOL_PROMPTS, PROMPT = 4, 128 * 1024 + 256
"""Prompts that must fit the KV cache of all ranks together, and the tokens of each with its answer."""
_SMALL = {"block": 64, "decode_tokens": 256, "decode_fraction": 0.0, "prefill_tokens": 256}
SMALL = {**_SMALL, "prefill_fraction": 0.0, "dense_tail_tokens": 64}
"""Budgets of either preset on a CPU."""


@dataclass(frozen=True)
class Load:
    """A prefix of ``prefix`` tokens, then ``at_once`` requests that share it, with ``own`` tokens each and an
    answer of ``answer``; of each scheduler."""

    prefix: int
    own: int
    answer: int
    at_once: int


GPU, GPU_PD = Load(96 * 1024, 64, 64, 8), Load(96 * 1024, 64, 256, 4)
CPU = Load(640, 30, 24, 3)


def gpu_mib() -> int:
    """Memory of this machine's GPUs, of the smallest.

    Raises:
        ValueError: nvidia-smi shows none.
    """
    told = output("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
    if not told:
        raise ValueError("nvidia-smi shows no GPU: run this where they are, or say --cpu")
    return min(int(line) for line in told.splitlines())


def layers(gpus: int, gpu_mib: int, dp: int = 1, drafts: bool = False) -> int:
    """Layers of DeepSeek-V3.2 that fit so many GPUs beside ``POOL_PROMPTS`` (see :mod:`..common.fit`)."""
    pool = -(-POOL_PROMPTS // dp) * PROMPT
    return fit.layers_that_fit(models.SLICES["v32"][1], gpus, gpu_mib, pool, dp, drafts)


@dataclass
class Big(Machine):
    """A machine all of whose GPUs serve one model, or one half each; ``gpu_mib``: memory of a GPU."""

    gpu_mib: int = 0
    plugin: Path = Path()
    gpu_env: Mapping[str, str] = field(default_factory=lambda: GPU_ENV)

    def setting(self, case: Case) -> str:
        """The preset, with decode steps of few requests pruned, too; on a CPU with small budgets."""
        small = SMALL if self.cpu else {}
        return json.dumps({**small, "canary": "sample", "stock_decode_graphs": False, **case.hisa})

    def flags(self, case: Case, model: Path) -> list[str]:
        if not self.cpu:
            return ["--model-path", str(model), *SERVED, *case.flags]
        pool = 4 * (CPU.prefix + CPU.at_once * 64)
        chunk = 256 * (case.gpus if "--dp" in case.flags else 1)  # SGLang divides it by the ranks
        given = server.cpu_flags(model, pool_tokens=pool)
        return [*given, "--chunked-prefill-size", str(chunk), *case.flags]

    def layers(self, case: Case) -> int:
        """Those that fit the case's GPUs."""
        return layers(case.gpus, self.gpu_mib, case.gpus if "--dp" in case.flags else 1)

    def served(self, case: Case) -> str:
        """The model in words."""
        return "the tiny model" if self.cpu else f"{self.layers(case)} layers of DeepSeek-V3.2 in fp8"

    def write_model(self, case: Case, out: Path) -> Path:
        if self.cpu:
            return models.make_tiny(out)
        return models.make_slice("v32", out, layers=self.layers(case))


def judged(
    receipts: Sequence[Receipt | None], phases: Sequence[str], alike: bool
) -> tuple[list[KeptReceipt], list[str]]:
    """What the record keeps of each rank's receipt, and what is wrong with them.

    Args:
        phases: in which every rank has to have pruned.
        alike: whether all ranks saw the same rows, as those of one TP group do.
    """
    kept, problems = [], []
    for rank, receipt in enumerate(receipts):
        one, wrong = checked_receipt(receipt)
        kept.append(one)
        if one != KeptReceipt():
            idle = [phase for phase in phases if (one.candidate_share.get(phase) or 1) >= 1]
            wrong = [why for why in wrong if why != NOT_PRUNED] + [f"{phase}: {NOT_PRUNED}" for phase in idle]
        problems += [f"rank {rank}: {why}" for why in wrong]
    told = {rank: _said(one, alike) for rank, one in enumerate(receipts) if one is not None and one.active}
    first = min(told, default=0)
    for rank, said in told.items():
        for name, value in said.items():
            if value != told[first][name]:
                other = told[first][name]
                problems.append(f"rank {rank} differs from rank {first}: {name} {value}, not {other}")
    return kept, problems


def _said(receipt: Receipt, alike: bool) -> dict[str, Any]:
    """What ranks must agree on."""
    names = ("version", "sglang", "preset", "config", "layers", "graphs_with_hisa")
    found = {name: getattr(receipt, name) for name in names}
    return {**found, "rows": asdict(receipt.rows), "hisa_steps": receipt.hisa_steps} if alike else found


def every_rank(one: ServerProcess, told: Path, ranks: int, patience: float = 30) -> list[Receipt | None]:
    """The receipt of each rank of a server with the plugin; None of one that wrote none in time."""
    for old in told.iterdir():
        old.unlink()
    one.receipts()  # asks them all
    files = [told / f"{rank}.json" for rank in range(ranks)]
    deadline = time.monotonic() + patience
    while not all(file.is_file() for file in files) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [read(Receipt, json.loads(file.read_text())) if file.is_file() else None for file in files]


def _folder(machine: Big, name: str) -> tuple[Path, dict[str, str]]:
    """A folder for the receipts of a server's ranks, and the server's environment for it."""
    told = machine.models / f"{name}-told"
    told.mkdir(exist_ok=True)
    base = machine.server_env(Case(""), True)
    return told, {"PYTHONPATH": with_plugin(base, machine.plugin)["PYTHONPATH"], "RECEIPTS": str(told)}


def send(ask: pd.Ask, load: Load, schedulers: int, facts: Facts, problems: list[str]) -> None:
    """The load, to each of so many schedulers at once; adds what is wrong with the answers."""
    whole = [{"routed_dp_rank": rank} for rank in range(schedulers)] if schedulers > 1 else [{}]

    def one(place: tuple[dict[str, int], int]) -> Mapping[str, Any]:
        to, number = place
        tokens = prompt(load.prefix, 1)
        tokens += prompt(load.own, 100 + 100 * number + to.get("routed_dp_rank", 0)) if number else []
        return ask(tokens, load.answer if number else 1, **to)

    with ThreadPoolExecutor(schedulers * load.at_once) as pool:
        list(pool.map(one, [(to, 0) for to in whole]))
        answers = list(pool.map(one, [(to, n + 1) for n in range(load.at_once) for to in whole]))
    facts.requests = len(whole) + len(answers)
    if any(len(answer["output_ids"]) != load.answer for answer in answers):
        problems.append("an answer is not whole")


def _served(machine: Big, name: str, case: Case, facts: Facts, problems: list[str]) -> None:
    """TP or DP attention over all GPUs."""
    model = machine.write_model(case, machine.models / name)
    facts.model = models.described(model)
    told, env = _folder(machine, name)
    schedulers = case.gpus if "--dp" in case.flags else 1
    log = machine.logs / f"acceptance-{name}-hisa.log"
    env = {**machine.server_env(case, True), **env}
    with ServerProcess(machine.flags(case, model), env=env, log=log) as one:
        facts.ready_s = round(machine.wait_ready(one, name, case, True))
        send(one.generate, CPU if machine.cpu else GPU, schedulers, facts, problems)
        receipts = every_rank(one, told, case.gpus)
        facts.kv_tokens = one.request("/server_info")["max_total_num_tokens"]
    if first := receipts[0]:
        facts.summary_mib = round(first.summary_bytes / fit.MIB, 2)
    kept, wrong = judged(receipts, pd.MODES, alike=schedulers == 1)
    facts.ranks = tuple(kept)
    problems += wrong


def _disaggregated(
    machine: Big, backend: str, name: str, case: Case, facts: Facts, problems: list[str]
) -> None:
    """A prefill and a decode server, HISA on both."""
    model = machine.write_model(case, machine.models / name)
    facts.model = models.described(model)
    with ExitStack() as stack:
        folders = {mode: _folder(machine, f"{name}-{mode}") for mode in pd.MODES}
        envs = {mode: env for mode, (_, env) in folders.items()}
        prefill, decode, ask = pd.Place(stack, machine, model, case, envs).pair(backend, name, (True, True))
        send(ask, CPU if machine.cpu else GPU_PD, 1, facts, problems)
        for mode, one in zip(pd.MODES, (prefill, decode)):
            kept, wrong = judged(every_rank(one, folders[mode][0], case.gpus), (mode,), alike=True)
            setattr(facts, mode, kept[0])
            problems += [f"{mode}: {why}" for why in wrong]


def cases(gpus: int) -> dict[str, Case]:
    """Rows of the whole model on so many GPUs; without DP attention and disaggregation on one."""
    found = {}
    for preset in PRESETS:
        of = {"preset": preset}
        found[f"whole-tp{gpus}-{preset}"] = Case(f"TP {gpus}, `{preset}`", tp(gpus), gpus=gpus, hisa=of)
        if gpus > 1:
            found[f"whole-dp{gpus}-{preset}"] = Case(
                f"DP attention {gpus}, `{preset}`", dp(gpus), gpus=gpus, hisa=of
            )
            half = gpus // 2
            found[f"whole-pd{gpus}-{preset}"] = Case(
                f"prefill and decode server, {half} each, `{preset}`", tp(half), gpus=half, hisa=of
            )
    return dict(sorted(found.items(), key=lambda one: one[0].startswith("whole-pd")))


def run_whole(name: str, machine: Big, backend: str, gpus: int) -> CaseRow:
    """Run one of :func:`cases`; returns its row."""
    case = cases(gpus)[name]
    apart = name.startswith("whole-pd")
    probe = partial(_disaggregated, machine, backend) if apart else partial(_served, machine)
    named = replace(case, shows=f"{machine.served(case)}, {case.shows}")
    return row_of(name, named, machine, partial(probe, name, case))
