"""Serve each feature with stock DSA and with HISA on the same prompts, and add a row a case to a record.

    python -m sglang_hisa.launch.acceptance --out launch/results/coverage-h100.json
    python -m sglang_hisa.launch.acceptance --gpus 2 --out launch/results/two-gpu.json
    python -m sglang_hisa.launch.acceptance --gpus 8 --whole tests/plugins/receipts --out eight-gpu.json
    python -m sglang_hisa.launch.acceptance --cpu --out acceptance.json --cases plain mtp

A case is a small model with random weights and a set of SGLang's flags. Both servers answer prompts within
the budget, where HISA must answer as stock DSA does except for rounding; HISA also answers prompts beyond it,
with the canary on. A case that fails leaves a row with its problems and the ends of the logs; the next case
still runs, and the exit code is 1. A new row replaces the older one of its case. Several calls may write to
one record at the same time, each on its own GPU (CUDA_VISIBLE_DEVICES).
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sglang_hisa.config import environment
from sglang_hisa.launch.acceptance import cases, whole
from sglang_hisa.launch.acceptance.case_run import Machine, run_case
from sglang_hisa.launch.acceptance.chunks import CHUNKS, run_chunks
from sglang_hisa.launch.acceptance.pd import SIDES, run_pd
from sglang_hisa.launch.acceptance.ranks import RANKS, run_ranks
from sglang_hisa.launch.acceptance.record import CaseRow
from sglang_hisa.launch.common.rows import RowRecord
from sglang_hisa.launch.common.typed import as_json
from sglang_hisa.patches.contract import installed_version

Run = Callable[[Sequence[str]], None]
"""Runs rows of these names and saves each."""


def main(argv: list[str] | None = None) -> int:
    """Run the cases; see the module docstring."""
    parser = _parser()
    args = parser.parse_args(argv)
    begin = time.monotonic()
    tell = partial(print, flush=True)
    try:
        mib = whole.gpu_mib() if args.whole and not args.cpu else 0
    except ValueError as error:
        parser.error(str(error))
    with TemporaryDirectory() as models:
        given = (args.cpu, environment(), args.out.parent, Path(models), tell, args.timeout)
        machine = whole.Big(*given, gpu_mib=mib, plugin=args.whole) if args.whole else Machine(*given)

        def keep(row: CaseRow) -> None:
            record.put(row)
            tell(f"{row.case}: {'; '.join(row.problems) or 'right'} {as_json(row.facts)}")

        def run_all(names: Sequence[str]) -> None:
            known = {**cases.CASES, **cases.of(args.gpus)}
            for name in names:
                if args.seconds and time.monotonic() - begin > args.seconds:
                    tell(f"{name}: not started, the limit of {args.seconds:.0f} s is over")
                    continue
                keep(run_case(name, known[name], machine))

        known, default, run = _suite(args, machine, keep) or _features(args, run_all)
        if strange := sorted({*(args.cases or ())} - {*known}):
            parser.error(f"no such case: {', '.join(strange)}; allowed: {', '.join(known)}")
        record = RowRecord(args.out, shlex.join(sys.argv), CaseRow, key="case")
        chosen = args.cases or default
        if args.missing:
            chosen = [name for name in chosen if name not in right(record)]
        run(chosen)
    return int(not right(record) >= set(chosen))


def _parser() -> argparse.ArgumentParser:
    every = "\n".join(f"  {name:18} {case.shows}" for name, case in cases.CASES.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\ncases (on N GPUs tpN and so on instead of tp2):\n{every}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="default: all")
    parser.add_argument("--gpus", type=int, default=1, help="run the cases that need this many GPUs (1)")
    parser.add_argument(
        "--missing", action="store_true", help="only cases that the record lacks or has problems with"
    )
    parser.add_argument(
        "--seconds", type=float, default=0, help="start no further case after this many seconds (0: no limit)"
    )
    parser.add_argument("--timeout", type=float, default=400, help="seconds a server may take to start")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--disaggregate",
        metavar="BACKEND",
        help="instead: a prefill and a decode server, HISA on both or on either; nixl or mooncake",
    )
    which.add_argument(
        "--ranks",
        type=Path,
        metavar="DIR",
        help="instead: compare the ranks' choices, as the plugin tests/plugins/ranks of a checkout logs them",
    )
    which.add_argument(
        "--chunks",
        type=Path,
        metavar="DIR",
        help="instead: small chunks with prefill graphs, as the plugin tests/plugins/steps logs them",
    )
    which.add_argument(
        "--whole",
        type=Path,
        metavar="DIR",
        help="instead: DeepSeek-V3.2, as many layers as fit, over all --gpus; every rank's receipt comes "
        "from the plugin tests/plugins/receipts",
    )
    parser.add_argument(
        "--backend", default="nixl", help="with --whole: nixl or mooncake, between prefill and decode server"
    )
    parser.add_argument(
        "--sizes", nargs="+", metavar="N", help="with --chunks on one GPU: only these chunk sizes"
    )
    parser.add_argument("--cpu", action="store_true", help="tiny models on a CPU")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="record, logs beside it")
    return parser


def _features(args: argparse.Namespace, run: Run) -> tuple[list[str], list[str], Run]:
    """The names of all cases, of those to run by default, and how to run them."""
    mine = [
        name
        for name, case in cases.of(args.gpus).items()
        if not (args.cpu and case.tiny is None) and installed_version() not in case.gone
    ]
    return [*cases.CASES, *cases.several(args.gpus)], mine, run


def _suite(
    args: argparse.Namespace, machine: Machine, keep: Callable[[CaseRow], None]
) -> tuple[list[str], list[str], Run] | None:
    """The same of what runs instead of the cases, where that was asked for."""
    run: Run
    if isinstance(machine, whole.Big):
        names = list(whole.cases(args.gpus))
        run = partial(whole.run_whole, machine, args.backend, args.gpus, save=keep)
    elif args.disaggregate:
        names = list(SIDES)
        run = partial(run_pd, machine, args.disaggregate, max(2, args.gpus), save=keep)
    elif args.ranks:
        names = list(RANKS)
        run = partial(run_ranks, machine, args.ranks, max(2, args.gpus), save=keep)
    elif args.chunks:
        names = [name for name, (_, gpus, _) in CHUNKS.items() if gpus == args.gpus]
        if args.sizes:
            names = [name for name in names if name.removeprefix("chunks-") in args.sizes]
        run = partial(run_chunks, machine, args.chunks, save=keep)
    else:
        return None
    return names, names, run


def right(record: RowRecord[CaseRow]) -> set[str]:
    """Cases of the record without a problem."""
    return {row.case for row in record.rows() if not row.problems}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: servers are stopped
    sys.exit(main())
