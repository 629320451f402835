"""Go on with an A/B that was cut off: what may be kept of its record, and what is left to measure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from sglang_hisa.launch.ab import stats

Place = tuple[int, int, str]
"""Round, cell and arm of a measurement."""

SAME = ("gpu", "driver", "torch", "sglang", "deep_gemm", "sglang_kernel", "commit")
"""Of the provenance: what times depend on."""


def kept(old: Mapping[str, Any], new: Mapping[str, Any], alone: bool = False) -> list[dict[str, Any]]:
    """Measurements of a cut-off record that go on in a new run of the same plan.

    A round of a cell is kept where all arms have it: a pair is of one run. ``alone``: each measurement is
    kept by itself, of arms that are not up together and run minutes apart as it is; a run of servers that
    fill all GPUs may be cut off after each of them.

    Raises:
        ValueError: it compares something else, was refused, or measured another code or machine.
    """
    for key in ("model", "flags", "plan"):
        if old[key] != new[key]:
            raise ValueError(f"--resume: the record there has {key} {old[key]}, this run {new[key]}")
    if old["refusals"]:
        raise ValueError(f"--resume: the record there was refused ({old['refusals'][0]})")
    for key in SAME:
        was, now = (record["provenance"].get(key) for record in (old, new))
        if was != now:
            raise ValueError(
                f"--resume: the record there was measured with {key} {was}, this machine has {now}"
            )
    good = [one for one in old["measurements"] if not stats.failed(one)]
    if alone:
        return good
    arms = set(new["plan"]["arms"])
    have: dict[tuple[int, int], set[str]] = {}
    for one in good:
        have.setdefault((one["round"], one["cell"]), set()).add(one["arm"])
    return [one for one in good if have[one["round"], one["cell"]] == arms]


def left(record: Mapping[str, Any]) -> list[Place]:
    """What is still to be measured."""
    done = {(one["round"], one["cell"], one["arm"]) for one in record["measurements"]}
    plan = record["plan"]
    every = product(range(plan["rounds"]), range(len(plan["cells"])), plan["arms"])
    return [place for place in every if place not in done]


def arms(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is said of each arm: of the earlier run, until its server starts again, but for how that ended."""
    return {
        name: {**old["arms"][name], "log_tail": None, "killed": None, "setting": facts["setting"]}
        for name, facts in new["arms"].items()
    }
