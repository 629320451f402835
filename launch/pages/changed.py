"""What a preset has become since a record measured it: said below every table that shows one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sglang_hisa.config import PRESETS, Config, from_mapping
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common import made_up
from sglang_hisa.launch.common.record import Record
from sglang_hisa.launch.eval.record import EvalRecord

DECODE = ("decode_tokens", "decode_fraction")
PREFILL = ("prefill_tokens", "prefill_fraction", "prefill_group", "prefill_heads", "dense_tail_tokens")
BOTH = ("block", "sink_tokens", "local_tokens")
OLDER: dict[str, object] = {"prefill_group": 1, "prefill_heads": 1.0}
"""What servers did before these keys existed."""


def keys(config: Config) -> tuple[str, ...]:
    """The keys that decide which tokens a row of this setting attends to."""
    phases = [*(DECODE if config.decode.active else ()), *(PREFILL if config.prefill.active else ())]
    return (*BOTH, *phases)


def since(preset: str, then: Mapping[str, Any]) -> list[str]:
    """Keys of ``preset`` that had other values in the configuration ``then``, in words."""
    now = from_mapping({"preset": preset})
    values = ((key, then.get(key, OLDER.get(key)), getattr(now, key)) for key in keys(now))
    return [f"`{key}` {was:g} ({new:g} now)" for key, was, new in values if was not in (None, new)]


def crowded(records: Mapping[str, Record]) -> str:
    """A line about A/Bs of ``records`` whose made-up weights have index scores that are nearly equal
    (:mod:`sglang_hisa.patches.made_up`); empty if there is none."""
    runs = {name: one for name, one in records.items() if isinstance(one, AbRecord)}
    names = [
        f"`{name}`" for name, one in runs.items() if made_up.makes_up(one.flags or ()) and not one.spread
    ]
    if not names:
        return ""
    which = "these records" if len(names) == len(records) else ", ".join(names)
    what = "have index scores that are nearly equal, which slows top-k"
    return f"<sub>Made-up weights of {which} {what}.</sub>"


def note(records: Mapping[str, Record]) -> str:
    """A line about presets of ``records`` (by name) that have changed; empty if none has."""
    said: dict[str, list[str]] = {}
    for name, record in records.items():
        if not isinstance(record, AbRecord | EvalRecord):
            continue
        for arm, facts in record.arms.items():
            receipt = facts.served if arm in PRESETS else None
            if receipt and (found := since(arm, receipt.config)):
                said.setdefault(f"`{arm}` had {', '.join(found)}", []).append(f"`{name}`")
    lines = (f"{what} in {', '.join(names)}" for what, names in said.items())
    return f"<sub>Presets have changed since: {'; '.join(lines)}.</sub>" if said else ""
