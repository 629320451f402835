"""Go on with an A/B that was cut off: what may be kept of its record, and what is left to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from sglang_hisa.launch.ab.plan import KeptPlan
from sglang_hisa.launch.ab.record import AbRecord, ArmFacts, Measurement

Place = tuple[int, int, str]
"""Round, cell and arm of a measurement."""

SAME = ("gpu", "driver", "torch", "sglang", "deep_gemm", "sglang_kernel", "commit")
"""Of the provenance: what times depend on."""


def kept(old: AbRecord, new: AbRecord, alone: bool = False) -> tuple[Measurement, ...]:
    """Measurements of a cut-off record that go on in a new run of the same plan.

    A round of a cell is kept where all arms have it: a pair is of one run. ``alone``: each measurement is
    kept by itself, of arms that are not up together and run minutes apart as it is; a run of servers that
    fill all GPUs may be cut off after each of them.

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
        raise ValueError(f"--resume: the record in --out is of another run: {'; '.join(differ)}")
    if old.refusals:
        raise ValueError(f"--resume: the run in --out was refused ({old.refusals[0]})")
    good = tuple(one for one in old.measurements if not one.failed)
    if alone:
        return good
    have: dict[tuple[int, int], set[str]] = {}
    for one in good:
        have.setdefault((one.round, one.cell), set()).add(one.arm)
    return tuple(one for one in good if have[one.round, one.cell] == set(new.plan.arms))


def left(plan: KeptPlan, measured: Sequence[Measurement] = ()) -> list[Place]:
    """What is still to be measured."""
    done = {(one.round, one.cell, one.arm) for one in measured}
    every = product(range(plan.rounds), range(len(plan.cells)), plan.arms)
    return [place for place in every if place not in done]


def arms(old: AbRecord, new: AbRecord) -> dict[str, ArmFacts]:
    """What is said of each arm: of the earlier run, until its server starts again, but for how that ended."""
    return {
        name: replace(old.arms[name], log_tail=None, killed=None, setting=facts.setting)
        for name, facts in new.arms.items()
    }
