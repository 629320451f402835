"""The note below a table about the server flags by which its records differ."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from sglang_hisa.launch.common.record import Record

_CAPTURES = "captures CUDA graphs of prefill steps, too"
NOT_DEFAULT = {
    ("--disable-prefill-cuda-graph", ""): _CAPTURES,
    ("--cuda-graph-backend-prefill", "disabled"): _CAPTURES,
}
"""Flags and values under which a server differs from what SGLang serves by default, and that default. Each
table of records that have one says so, also where all of them have it."""
BOUNDS = ("--context-length", "--max-total-tokens")
"""What a server can hold at most. It follows from the lengths and loads that a table shows: not told."""
PLACES = ("--model-path",)
"""Flags whose value is a path: only its last part says what was served."""
OWN = frozenset(
    (
        *("--arms", "--at-once", "--canary", "--contexts", "--cpu", "--from", "--jitter", "--longbench"),
        *("--longest", "--minutes", "--out", "--plugin", "--ruler2", "--samples", "--scenes", "--seed"),
        *("--slice", "--tasks", "--timeout", "--together", "--force"),
    )
)
"""Options of ``hisa eval`` and of the stress runs, whose records keep the command and not the flags."""


def parse(words: Iterable[str]) -> dict[str, str]:
    """Flags with their values as one text, empty for a flag that has none. Words before them are left out."""
    found: dict[str, str] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            found[flag] = value
        elif flag:
            found[flag] = f"{found[flag]} {word}".strip()
    return {name: value.split("/")[-1] if name in PLACES else value for name, value in found.items()}


def of_servers(record: Record) -> list[dict[str, str]]:
    """Flags of the servers of ``record``, once for each call that started some; empty if none did."""
    if record.flags is not None:
        return [parse(record.flags)]
    given = []
    for command in dict.fromkeys(where.command or "" for where in record.origins):
        words = shlex.split(command)
        if record.kind == "hisa-eval" or any("stress" in word for word in words[:1]):
            flags = parse(words).items()
            given.append({flag: value for flag, value in flags if flag not in OWN})
    return given


def ranks(record: Record) -> int:
    """GPUs of one server: its tensor parallel ranks."""
    return int(parse(record.flags or ()).get("--tp", "1"))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _shown(flag: str, value: str) -> str:
    return f"`{flag} {value}`" if value else f"`{flag}`"


def _meaning(flag: str, values: Iterable[str]) -> str:
    usual = next((NOT_DEFAULT[flag, value] for value in values if (flag, value) in NOT_DEFAULT), "")
    return f" (not SGLang's default, which {usual})" if usual else ""


def _difference(flag: str, by_record: Mapping[str, str | None]) -> str:
    """One flag with the records that have each of its values; None means that the flag was not given."""
    values = dict.fromkeys(by_record.values())
    parts = []
    for value in sorted(values, key=lambda value: value is None):
        where = _listed(name for name, mine in by_record.items() if mine == value)
        parts.append(f"{'without' if value is None else value or 'with'}: {where}")
    return f"`{flag}`{_meaning(flag, (value for value in values if value is not None))} – {'; '.join(parts)}"


def note(records: Mapping[str, Record]) -> str:
    """A line about the server flags of ``records`` (by name); empty if there is nothing to say.

    It names the flags that differ, with the records that have each value, and the flags that are not SGLang's
    default. The calls of one record count as one set of flags; its own table shows where they differ.
    """
    servers = {name: made for name, record in records.items() if (made := of_servers(record))}
    one = {
        name: {flag: value for made in all_ for flag, value in made.items()} for name, all_ in servers.items()
    }
    flags = dict.fromkeys(flag for mine in one.values() for flag in mine)
    differ = [
        flag for flag in flags if flag not in BOUNDS and len({mine.get(flag) for mine in one.values()}) > 1
    ]
    said = []
    if differ:
        lines = (_difference(flag, {name: mine.get(flag) for name, mine in one.items()}) for flag in differ)
        said.append(f"Servers of these records differ in {'; in '.join(lines)}.")
    every = [made for all_ in servers.values() for made in all_]
    for (flag, value), usual in NOT_DEFAULT.items():
        having = sum(made.get(flag) == value for made in every)
        if having and flag not in differ:
            who = "All servers" if having == len(every) else "Some servers"
            said.append(f"{who} had {_shown(flag, value)}, which is not SGLang's default: it {usual}.")
    return f"<sub>{' '.join(said)}</sub>" if said else ""
