"""The long run of the cache histories, with its record. From the checkout:

python -m tests.history.long --steps 1000000 --out launch/results/property-long.json

The record is written after every batch, so that a run that is stopped keeps what it did; ``complete`` tells.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from hypothesis import seed
from hypothesis.stateful import run_state_machine_as_test
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sglang_hisa.launch.common.provenance import provenance
from tests.history.machine import History, history_settings
from tests.history.sglang_cache import importable

LENGTH, BATCH = 100, 50


def batch(number: int) -> str | None:
    """Run histories of their own seed; what failed, or None."""

    @seed(number)
    class Seeded(History):
        pass

    try:
        run_state_machine_as_test(Seeded, settings=history_settings(BATCH, LENGTH))
    except Exception as error:  # whatever a history raises is what the record is for
        return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
    return None


def run(steps: int, first_seed: int, out: Path) -> int:
    """Histories until ``steps`` were taken. Returns the exit code."""
    record = {"schema_version": 1, "provenance": provenance()}
    began, number, failure, done = time.monotonic(), first_seed, None, 0
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), refresh_per_second=1) as progress, importable():
        bar = progress.add_task("steps", total=steps)
        while done < steps and failure is None:
            failure = batch(number)
            number += 1
            done = History.checks - History.histories
            progress.update(bar, completed=done)
            row = {
                "test": "cache histories",
                "steps": done,
                "histories": History.histories,
                "first_seed": first_seed,
                "seeds": number - first_seed,
                "violations": int(failure is not None),
                "failure": failure,
                "complete": done >= steps,
                "minutes": round((time.monotonic() - began) / 60, 1),
                "happened": dict(sorted(History.seen.items())),
            }
            out.write_text(json.dumps({**record, "rows": [row]}, indent=1) + "\n")
    print(f"{done} steps, {'no violation' if failure is None else failure}; {out}")
    return int(failure is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first batch")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    return run(args.steps, args.seed, args.out)


if __name__ == "__main__":
    sys.exit(main())
