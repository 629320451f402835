"""Serve each feature with stock DSA and with HISA on the same prompts, and add a row a case to a record.

  python -m sglang_hisa.launch.acceptance --out coverage-h100.json
  python -m sglang_hisa.launch.acceptance --gpus 2 --out two-gpu.json
  python -m sglang_hisa.launch.acceptance --gpus 8 --out eight-gpu.json \\
      --whole tests/plugins/receipts
  python -m sglang_hisa.launch.acceptance --cpu --out acceptance.json \\
      --cases plain mtp

A case is a small model with random weights and a set of SGLang's flags. Both servers answer prompts within
the budget, where HISA must answer as stock DSA does except for rounding; HISA also answers prompts beyond it,
with the canary on. A case that fails, or that SIGTERM or Ctrl-C cuts off, leaves a row with its problems and
the ends of the logs; after a failure the next case still runs, and the exit code is 1. A new row replaces the
older one of its case. Several calls may write to one record at the same time, each on its own GPU
(CUDA_VISIBLE_DEVICES) or side by side on one; with --missing they share the cases, each taking the next that
no other has begun.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sglang_hisa.config import environment
from sglang_hisa.launch.acceptance import cases, whole
from sglang_hisa.launch.acceptance.case_run import CutOff, Machine, run_case
from sglang_hisa.launch.acceptance.chunks import CHUNKS, run_chunk
from sglang_hisa.launch.acceptance.pd import SIDES, run_pd
from sglang_hisa.launch.acceptance.ranks import RANKS, run_rank
from sglang_hisa.launch.acceptance.record import CaseRow
from sglang_hisa.launch.common import claims
from sglang_hisa.launch.common.help import listed, tool
from sglang_hisa.launch.common.rows import RowRecord
from sglang_hisa.launch.common.typed import as_json
from sglang_hisa.patches.contract import installed_version

Runs = Mapping[str, Callable[[], CaseRow]]
"""How to run each case."""


def main(argv: list[str] | None = None) -> int:
    """Run the cases; see the module docstring."""
    parser = _parser()
    args = parser.parse_args(argv)
    tell = partial(print, flush=True)
    try:
        mib = whole.gpu_mib() if args.whole and not args.cpu else 0
    except ValueError as error:
        parser.error(str(error))
    with TemporaryDirectory() as models:
        make: Callable[..., Machine] = Machine
        if args.whole:
            make = partial(whole.Big, gpu_mib=mib, plugin=args.whole)
        machine = make(args.cpu, environment(), args.out.parent, Path(models), tell, args.timeout)
        runs, usual = ({}, list(SIDES)) if args.disaggregate else _runs(args, machine)
        known = list(runs) or usual
        if strange := sorted({*(args.cases or ())} - {*known}):
            parser.error(f"no such case: {', '.join(strange)}; allowed: {', '.join(known)}")
        chosen = args.cases or usual
        record = RowRecord(args.out, shlex.join(sys.argv), CaseRow, key="case")

        def keep(row: CaseRow) -> None:
            record.put(row)
            tell(f"{row.case}: {'; '.join(row.problems) or 'right'} {as_json(row.facts)}")

        if args.disaggregate:
            chosen = [name for name in chosen if not (args.missing and name in right(record))]
            if chosen:
                run_pd(machine, args.disaggregate, max(2, args.gpus), chosen, keep)
        else:
            mine = {name: runs[name] for name in chosen}
            chosen = one_by_one(mine, record, keep, tell, args.seconds, args.missing)
    return int(not right(record) >= set(chosen))


def _parser() -> argparse.ArgumentParser:
    every = listed({name: case.shows for name, case in cases.CASES.items()}, 21)
    about = f"{__doc__}\ncases (on N GPUs tpN and so on instead of tp2):\n{every}"
    parser = tool("acceptance", "--out FILE", about)
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these (default: all)")
    parser.add_argument("--gpus", type=int, default=1, help="run the cases that need this many GPUs")
    parser.add_argument(
        "--missing",
        action="store_true",
        help="only cases that the record, with this SGLang, lacks or has problems with",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0,
        help="start no further case after this many seconds; 0 sets no limit",
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


def _runs(args: argparse.Namespace, machine: Machine) -> tuple[Runs, list[str]]:
    """How to run every case that may be named, and the names of those that run by default."""
    runs: Runs
    if isinstance(machine, whole.Big):
        runs = {
            name: partial(whole.run_whole, name, machine, args.backend, args.gpus)
            for name in whole.cases(args.gpus)
        }
    elif args.ranks:
        runs = {name: partial(run_rank, name, machine, args.ranks, max(2, args.gpus)) for name in RANKS}
    elif args.chunks:
        names = [name for name, (_, gpus, _) in CHUNKS.items() if gpus == args.gpus]
        if args.sizes:
            names = [name for name in names if name.removeprefix("chunks-") in args.sizes]
        runs = {name: partial(run_chunk, name, machine, args.chunks) for name in names}
    else:
        mine = [
            name
            for name, case in cases.of(args.gpus).items()
            if not (args.cpu and case.tiny is None) and installed_version() in case.versions
        ]
        every = {**cases.CASES, **cases.of(args.gpus)}
        return {name: partial(run_case, name, case, machine) for name, case in every.items()}, mine
    return runs, list(runs)


def one_by_one(
    runs: Mapping[str, Callable[[], CaseRow]],
    record: RowRecord[CaseRow],
    keep: Callable[[CaseRow], None],
    tell: Callable[[str], None],
    seconds: float,
    missing: bool,
) -> list[str]:
    """Keep the row of each case; with ``missing`` only of those that are not right yet and that no other call
    has begun. Returns the names without those that were left to other calls."""
    begin, before, mine = time.monotonic(), newest(record), []
    for name, run in runs.items():
        with claims.held("case", str(record.path.resolve()), name) as held:
            if missing and (not held or name in right(record)):
                continue
            if missing and newest(record).get(name) != before.get(name):
                continue  # another call has found it wrong meanwhile
            mine.append(name)
            if seconds and time.monotonic() - begin > seconds:
                tell(f"{name}: not started, the limit of {seconds:.0f} s is over")
                continue
            try:
                keep(run())
            except CutOff as cut:
                if name not in right(record):  # how far it came is no better than a row that is right
                    keep(cut.row)
                raise
    return mine


def newest(record: RowRecord[CaseRow]) -> dict[str, CaseRow]:
    """The row of each case."""
    return {row.case: row for row in record.rows()}


def right(record: RowRecord[CaseRow]) -> set[str]:
    """Cases of the record without a problem, with the SGLang that is installed."""
    now = installed_version()
    right = (row for row in record.rows() if not row.problems)
    return {row.case for row in right if row.provenance and row.provenance.sglang == now}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: servers are stopped
    sys.exit(main())
