"""Go on with an A/B that was cut off: what may be kept of its record, and what is left to measure."""

from __future__ import annotations

from dataclasses import replace

from sglang_hisa.launch.ab.record import AbRecord, ArmFacts, Measurement

SAME = ("gpu", "driver", "torch", "sglang", "deep_gemm", "sglang_kernel", "commit")
"""Of the provenance: what times depend on."""


def kept(old: AbRecord, new: AbRecord) -> tuple[Measurement, ...]:
    """Measurements of a cut-off record that go on in a new run of the same plan.

    A round of a cell is kept where all arms have it: a pair is of one run.

    Raises:
        ValueError: it compares something else, was refused, or measured another code or machine.
    """
    was, now = (
        {
            "model": record.model,
            "flags": " ".join(record.flags),
            **vars(record.plan),
            **{key: getattr(record.provenance, key) for key in SAME},
        }
        for record in (old, new)
    )
    if differ := [f"{key} {was[key]} (now {now[key]})" for key in now if was[key] != now[key]]:
        raise ValueError(f"--resume: the record there is of another run: {'; '.join(differ)}")
    if old.refusals:
        raise ValueError(f"--resume: the record there was refused ({old.refusals[0]})")
    have: dict[tuple[int, int], set[str]] = {}
    for one in old.measurements:
        if not one.failed:
            have.setdefault((one.round, one.cell), set()).add(one.arm)
    return tuple(one for one in old.measurements if have.get((one.round, one.cell)) == set(new.plan.arms))


def left(record: AbRecord) -> list[tuple[int, int]]:
    """Rounds and cells that are still to be measured."""
    done = {(one.round, one.cell) for one in record.measurements}
    cells = range(len(record.plan.cells))
    return [(r, c) for r in range(record.plan.rounds) for c in cells if (r, c) not in done]


def arms(old: AbRecord, new: AbRecord) -> dict[str, ArmFacts]:
    """What is said of each arm: starts, retractions and scores of both runs, all else of the new one."""
    was = old.arms
    return {
        name: replace(
            facts,
            starts_s=was[name].starts_s,
            retractions=was[name].retractions,
            scoring=was[name].scoring,
        )
        for name, facts in new.arms.items()
    }
