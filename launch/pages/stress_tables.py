"""docs/reliability.md's tables of the stress record."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from sglang_hisa.launch.acceptance.stress.record import StressRecord, StressRow
from sglang_hisa.launch.acceptance.stress.scenes import SCENES
from sglang_hisa.launch.common.text import plain, table
from sglang_hisa.launch.pages.reader import ROOT, Reader

Rows = Sequence[StressRow]
Table = tuple[list[str], list[list[str]]]

NAME = "stress-h100"
NEWER = "stress-h200-0.5.23"
WANTED = 30
"""Minutes of server time that a record should have."""


def stress(read: Reader) -> str:
    """What servers were put through with the canary on, by scene, model and arm."""
    rows = read(StressRecord, NAME).rows
    return "\n\n".join(filter(None, (table(*scenes(rows)), left(rows), read.source(NAME))))


def stress_newer(read: Reader) -> str:
    """The same with SGLang 0.5.23, all on one GPU at a time, which the line below the table says."""
    if not (ROOT / read.path(NEWER)).is_file():
        return "Not run yet."
    rows = read(StressRecord, NEWER).rows
    return "\n\n".join(
        filter(None, (table(*scenes(rows)), side_by_side(rows), left(rows), read.source(NEWER)))
    )


def stress_kl(read: Reader) -> str:
    """Answers with a full cache against those with an empty one, HISA beside stock."""
    return table(*warm(read(StressRecord, NAME).rows))


def scenes(every: Rows) -> Table:
    """A row for each scene, model and arm over all calls, and their sum."""
    lines = [
        [name, model, f"`{arm}`", _minutes(rows), *_sums(rows), _problems(rows)]
        for (model, arm, name), rows in _groups(every).items()
    ]
    count = sum(len(row.problems) for row in every)
    lines.append(["**all**", "", "", f"{_total(every):.1f}", *_sums(every), str(count) if count else "–"])
    head = ["scene", "model", "arm", "server minutes", "requests", "summaries checked", "wrong"]
    return [*head, "retractions", "pages rebuilt", "problems"], lines


def warm(every: Rows) -> Table:
    """Largest KL of the ``warm`` scene's rounds by model and arm, beside that of two empty caches.

    More rounds find a larger one; the mean, which newer records have, does not depend on how many.
    """
    lines = []
    for (model, arm, name), rows in _groups(every).items():
        known = [row for row in rows if "kl_warm_cold" in row.facts]
        if name == "warm" and known:
            rounds = sum(row.rounds for row in known)
            kls = (_kl(known, key) for key in ("kl_warm_cold", "kl_cold_cold"))
            lines.append([model, f"`{arm}`", str(rounds), *kls])
    return ["model", "arm", "rounds", "KL(full cache, empty cache)", "KL(empty, empty again)"], lines


def left(every: Rows) -> str:
    """A sentence on the minutes that are still wanted; empty when there are enough."""
    had = _total(every)
    return "" if had >= WANTED else f"{had:.1f} of the {WANTED} server minutes that are wanted."


def side_by_side(every: Rows) -> str:
    """A sentence on how long all of it took, and how many servers ran at once; a row's date is its begin."""
    ends = []
    for row in every:
        if row.provenance and row.provenance.date:
            begin = datetime.fromisoformat(row.provenance.date).timestamp() / 60
            ends += [(begin, 1), (begin + row.minutes, -1)]
    clock, most, running, last = 0.0, 0, 0, 0.0
    for at, change in sorted(ends):
        clock += (at - last) * bool(running)
        running, last = running + change, at
        most = max(most, running)
    return (
        f"These {_total(every):.1f} minutes of servers are {clock:.1f} by the clock: up to {most} of them "
        "ran side by side on the GPU, each with a load of its own."
    )


def _kl(rows: Rows, key: str) -> str:
    """The largest of all rounds, and the mean where every row has one."""
    largest = max(row.facts[key] for row in rows)
    if not largest:
        return "0"
    means = [row.means[key] * row.rounds for row in rows if row.means is not None]
    if len(means) < len(rows):
        return f"{largest:.1e}"
    return f"{largest:.1e}, mean {sum(means) / sum(row.rounds for row in rows):.1e}"


def _groups(every: Rows) -> dict[tuple[str, str, str], list[StressRow]]:
    """By model and arm as they come, stock last, and in these by scene."""
    arms = dict.fromkeys((row.model, row.arm) for row in every)
    order = sorted(arms, key=lambda one: one[1] == "stock")
    keys = [(model, arm, name) for model, arm in order for name in SCENES]
    found = {key: [row for row in every if (row.model, row.arm, row.test) == key] for key in keys}
    return {key: rows for key, rows in found.items() if rows}


def _total(rows: Iterable[StressRow]) -> float:
    return sum(row.minutes for row in rows)


def _minutes(rows: Rows) -> str:
    """Of all calls, and how many of them with other options than the usual ones."""
    by_options: dict[str, list[StressRow]] = {}
    for row in rows:
        command = row.provenance.command if row.provenance else None
        by_options.setdefault(_options(command or ""), []).append(row)
    special = [f"{_total(some):.1f} with {name}" for name, some in by_options.items() if name]
    return f"{_total(rows):.1f}" + (f" ({', '.join(special)})" if special else "")


def _options(command: str) -> str:
    """What a call had beside the usual: HiCache, delays, prefill graphs (SGLang's default)."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--jitter", type=float, default=0.0)
    parser.add_argument("--enable-hierarchical-cache", action="store_true")
    parser.add_argument("--cuda-graph-backend-prefill")
    given, _ = parser.parse_known_args(shlex.split(command))
    found = ["HiCache"] if given.enable_hierarchical_cache else []
    found += [f"delays up to {given.jitter:g} ms"] if given.jitter else []
    found += ["prefill graphs"] if given.cuda_graph_backend_prefill != "disabled" else []
    return " and ".join(found)


def _sums(rows: Rows) -> list[str]:
    """Requests, summaries checked and wrong, retractions, pages rebuilt; stock has no summaries."""
    stock = all(row.arm == "stock" for row in rows)
    wrong = sum(row.violations for row in rows)
    of_summaries = [
        f"{sum(row.canary_pages_checked for row in rows):,}",
        f"**{wrong:,}**" if wrong else "0",
        f"{sum(row.pages_rebuilt for row in rows):,}",
    ]
    checked, violations, rebuilt = ["–"] * 3 if stock else of_summaries
    requests, retractions = sum(row.requests for row in rows), sum(row.retractions for row in rows)
    return [f"{requests:,}", checked, violations, f"{retractions:,}", rebuilt]


def _problems(rows: Rows) -> str:
    """Each kind of problem once, with how often it was seen."""
    seen = Counter(plain(text) for row in rows for text in row.problems)
    return "; ".join(text if count == 1 else f"{count} × {text}" for text, count in seen.items()) or "–"
