"""Serve each feature with stock DSA and with HISA on the same prompts, and add a row a case to a record.

    python -m sglang_hisa.launch.acceptance --out launch/results/coverage-h100.json
    python -m sglang_hisa.launch.acceptance --gpus 2 --out launch/results/two-gpu.json
    python -m sglang_hisa.launch.acceptance --cpu --out acceptance.json --cases plain mtp

A case is a small model with random weights and a set of SGLang's flags. Both servers answer prompts within
the budget, where HISA must answer as stock DSA does except for rounding; HISA also answers prompts beyond it,
with the canary on. A case that fails leaves a row with its problems and the ends of the logs; the next case
still runs, and the exit code is 1. A new row replaces the older one of its case. Several calls may write to
one record at the same time, each on its own GPU (CUDA_VISIBLE_DEVICES) or side by side on one; with --missing
they share the cases, each taking the next that no other has begun.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sglang_hisa.config import environment
from sglang_hisa.launch.acceptance.case_run import Machine, run_case
from sglang_hisa.launch.acceptance.cases import CASES
from sglang_hisa.launch.acceptance.chunks import CHUNKS, run_chunk
from sglang_hisa.launch.acceptance.pd import SIDES, run_pd
from sglang_hisa.launch.acceptance.ranks import RANKS, run_ranks
from sglang_hisa.launch.acceptance.record import CaseRow
from sglang_hisa.launch.common import claims
from sglang_hisa.launch.common.rows import RowRecord
from sglang_hisa.launch.common.typed import as_json
from sglang_hisa.patches.contract import installed_version


def main(argv: list[str] | None = None) -> int:
    """Run the cases; see the module docstring."""
    cases = "\n".join(f"  {name:18} {case.shows}" for name, case in CASES.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\ncases:\n{cases}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cases", nargs="+", choices=list(CASES), metavar="CASE", help="default: all")
    parser.add_argument("--gpus", type=int, default=1, help="run the cases that need this many GPUs (1)")
    parser.add_argument(
        "--missing",
        action="store_true",
        help="only cases that the record, with this SGLang, lacks or has problems with",
    )
    parser.add_argument(
        "--seconds", type=float, default=0, help="start no further case after this many seconds (0: no limit)"
    )
    parser.add_argument("--timeout", type=float, default=400, help="seconds a server may take to start")
    which.add_argument(
        "--disaggregate",
        metavar="BACKEND",
        help="instead: a prefill and a decode server, HISA on both or on either; nixl or mooncake",
    )
    which.add_argument(
        "--ranks",
        type=Path,
        metavar="DIR",
        help="instead: compare two ranks' choices, as the plugin tests/plugins/ranks of a checkout logs them",
    )
    which.add_argument(
        "--chunks",
        type=Path,
        metavar="DIR",
        help="instead: small chunks with prefill graphs, as the plugin tests/plugins/steps logs them",
    )
    parser.add_argument(
        "--sizes", nargs="+", metavar="N", help="with --chunks on one GPU: only these chunk sizes"
    )
    parser.add_argument("--cpu", action="store_true", help="tiny models on a CPU")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="record, logs beside it")
    args = parser.parse_args(argv)

    chosen = args.cases or [
        name
        for name, case in CASES.items()
        if case.gpus == args.gpus
        and not (args.cpu and case.tiny is None)
        and installed_version() in case.versions
    ]
    record = RowRecord(args.out, shlex.join(sys.argv), CaseRow, key="case")
    tell = partial(print, flush=True)
    with TemporaryDirectory() as models:
        machine = Machine(args.cpu, environment(), args.out.parent, Path(models), tell, args.timeout)

        def keep(row: CaseRow) -> None:
            record.put(row)
            tell(f"{row.case}: {'; '.join(row.problems) or 'right'} {as_json(row.facts)}")

        if args.disaggregate:
            chosen = list(SIDES)
            run_pd(machine, args.disaggregate, keep)
        elif args.ranks:
            chosen = list(RANKS)
            run_ranks(machine, args.ranks, keep)
        else:
            if args.chunks:
                chosen = [name for name, (_, gpus, _) in CHUNKS.items() if gpus == args.gpus]
                if args.sizes:
                    chosen = [name for name in chosen if name.removeprefix("chunks-") in args.sizes]
                runs = {name: partial(run_chunk, name, machine, args.chunks) for name in chosen}
            else:
                runs = {name: partial(run_case, name, CASES[name], machine) for name in chosen}
            chosen = one_by_one(runs, record, keep, tell, args.seconds, args.missing)
    return int(not right(record) >= set(chosen))


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
            else:
                keep(run())
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
    sys.exit(main())
