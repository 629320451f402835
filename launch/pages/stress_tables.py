"""docs/reliability.md's table of each stress record."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate, pairwise
from typing import NamedTuple

from sglang_hisa.launch.acceptance.stress.record import StressRecord, StressRow
from sglang_hisa.launch.acceptance.stress.scenes import SCENES
from sglang_hisa.launch.common import flags
from sglang_hisa.launch.common.text import plain
from sglang_hisa.launch.pages.build import listed


class Group(NamedTuple):
    """Rows of all calls of one scene with one model, arm and options."""

    scene: str
    model: str
    arm: str
    options: str
    rows: Sequence[StressRow]

    def total(self, key: str) -> str:
        return f"{sum(getattr(row, key) for row in self.rows):,}"

    def of_summaries(self, key: str) -> str:
        """Stock has none."""
        return "–" if all(row.arm == "stock" for row in self.rows) else self.total(key)


def stress(record: StressRecord) -> str:
    """What servers were put through with the canary on, by scene, model, arm and options, and their sum."""
    made = listed(
        [*_groups(record.rows), Group("**all**", "", "", "", record.rows)],
        ("scene", lambda of: of.scene),
        ("model", lambda of: of.model),
        ("arm", lambda of: of.arm),
        ("with", lambda of: of.options),
        ("server minutes", lambda of: f"{sum(row.minutes for row in of.rows):.1f}"),
        ("requests", lambda of: of.total("requests")),
        ("summaries checked", lambda of: of.of_summaries("canary_pages_checked")),
        ("wrong", _wrong),
        ("retractions", lambda of: of.total("retractions")),
        ("pages rebuilt", lambda of: of.of_summaries("pages_rebuilt")),
        ("KL, full to empty cache (empty to empty)", _kl),
        ("problems", lambda of: _problems(of.rows)),
    )
    return f"{made}\n\n{by_the_clock(record.rows)}"


def by_the_clock(rows: Sequence[StressRow]) -> str:
    """A sentence on how long all of it took, and how many servers ran at once; a row's date is its begin."""
    known = [(row, row.provenance.date) for row in rows if row.provenance and row.provenance.date]
    begins = [(datetime.fromisoformat(date).timestamp() / 60, row.minutes) for row, date in known]
    ends = sorted(end for at, minutes in begins for end in ((at, 1), (at + minutes, -1)))
    running = list(accumulate(change for _, change in ends))
    clock = sum(after - at for ((at, _), (after, _)), n in zip(pairwise(ends), running) if n)
    return (
        f"These {sum(minutes for _, minutes in begins):.1f} minutes of servers are {clock:.1f} by the clock: "
        f"up to {max(running)} of them ran side by side, each with a load of its own."
    )


def _groups(rows: Sequence[StressRow]) -> list[Group]:
    """By model and arm as they come, stock last, in these by scene, and in these by options."""
    arms, order = list(dict.fromkeys((row.model, row.arm) for row in rows)), list(SCENES)
    found: dict[tuple[str, str, str, str], list[StressRow]] = {}
    for row in sorted(
        rows, key=lambda r: (r.arm == "stock", arms.index((r.model, r.arm)), order.index(r.test))
    ):
        command = row.provenance.command if row.provenance else None
        found.setdefault((row.test, row.model, f"`{row.arm}`", _options(command or "")), []).append(row)
    return [Group(*key, mine) for key, mine in found.items()]


def _options(command: str) -> str:
    """What a call had beside the usual: HiCache, delays, prefill graphs (SGLang's default)."""
    given = flags.parse(shlex.split(command))
    found = ["HiCache"] if "--enable-hierarchical-cache" in given else []
    found += [f"delays up to {float(given['--jitter']):g} ms"] if "--jitter" in given else []
    found += ["prefill graphs"] if given.get("--cuda-graph-backend-prefill") != "disabled" else []
    return ", ".join(found)


def _wrong(of: Group) -> str:
    wrong = of.of_summaries("violations")
    return wrong if wrong in ("–", "0") else f"**{wrong}**"


def _kl(of: Group) -> str:
    """Of the next token's distributions in nats, the mean over all rounds of the scene that asks for it."""
    known = [(row.rounds, row.means) for row in of.rows if row.means and of.scene == "warm"]
    full, empty = (sum(n * means[f"kl_{key}_cold"] for n, means in known) for key in ("warm", "cold"))
    rounds = sum(n for n, _ in known)
    return f"{full / rounds:.1e} ({empty / rounds:.1e})" if known else "–"


def _problems(rows: Sequence[StressRow]) -> str:
    """Each kind of problem once, with how often it was seen."""
    seen = Counter(plain(text) for row in rows for text in row.problems)
    return "; ".join(text if count == 1 else f"{count} × {text}" for text, count in seen.items()) or "–"
