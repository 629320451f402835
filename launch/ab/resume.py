"""Go on with an A/B that was cut off: what may be kept of its record, and what is left to measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang_hisa.launch.ab import stats

SAME = ("gpu", "driver", "torch", "sglang", "deep_gemm", "sglang_kernel", "commit")
"""Of the provenance: what times depend on."""


def kept(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Measurements of a cut-off record that go on in a new run of the same plan.

    A round of a cell is kept where all arms have it: a pair is of one run.

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
    arms = set(new["plan"]["arms"])
    have: dict[tuple[int, int], set[str]] = {}
    for one in old["measurements"]:
        if not stats.failed(one):
            have.setdefault((one["round"], one["cell"]), set()).add(one["arm"])
    return [one for one in old["measurements"] if have.get((one["round"], one["cell"])) == arms]


def left(record: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Rounds and cells that are still to be measured."""
    done = {(one["round"], one["cell"]) for one in record["measurements"]}
    plan = record["plan"]
    return [(r, c) for r in range(plan["rounds"]) for c in range(len(plan["cells"])) if (r, c) not in done]


def arms(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is said of each arm: starts and retractions of both runs, all else of the new one as it comes."""
    found = {}
    for name, facts in new["arms"].items():
        was = old["arms"][name]
        found[name] = {**facts, "starts_s": [*was["starts_s"]], "retractions": was["retractions"]}
    return found
