"""docs/reliability.md's tables of the stress record: head and rows."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable
from typing import Any

from sglang_hisa.launch.acceptance.stress.scenes import SCENES
from sglang_hisa.launch.common.text import plain

Row = dict[str, Any]
Table = tuple[list[str], list[list[str]]]

WANTED = 30
"""Minutes of server time that a record should have."""
_KLS = ("kl_warm_cold", "kl_cold_cold")
_SUMS = ("requests", "canary_pages_checked", "violations", "retractions", "pages_rebuilt")


def scenes(record: Row) -> Table:
    """A row for each scene, model and arm over all calls, and their sum."""
    out = [
        [name, model, f"`{arm}`", _minutes(rows), *_sums(rows), _problems(rows)]
        for (model, arm, name), rows in _groups(record["rows"]).items()
    ]
    every = record["rows"]
    count = sum(len(row["problems"]) for row in every)
    out.append(["**all**", "", "", f"{_total(every):.1f}", *_sums(every), str(count) if count else "–"])
    head = ["scene", "model", "arm", "server minutes", "requests", "summaries checked", "wrong"]
    return [*head, "retractions", "pages rebuilt", "problems"], out


def warm(record: Row) -> Table:
    """Largest KL of the ``warm`` scene's rounds by model and arm, beside that of two empty caches.

    More rounds find a larger one; the mean, which records have since then, does not depend on how many.
    """
    out = []
    for (model, arm, name), rows in _groups(record["rows"]).items():
        known = [row for row in rows if "kl_warm_cold" in row["facts"]]
        if name == "warm" and known:
            rounds = sum(row["rounds"] for row in known)
            out.append([model, f"`{arm}`", str(rounds), *(_kl(known, key) for key in _KLS)])
    return ["model", "arm", "rounds", "KL(full cache, empty cache)", "KL(empty, empty again)"], out


def _kl(rows: list[Row], key: str) -> str:
    """The largest of all rounds, and the mean where every row has one."""
    largest = max(row["facts"][key] for row in rows)
    if not largest:
        return "0"
    if not all("means" in row for row in rows):
        return f"{largest:.1e}"
    mean = sum(row["means"][key] * row["rounds"] for row in rows) / sum(row["rounds"] for row in rows)
    return f"{largest:.1e}, mean {mean:.1e}"


def left(record: Row) -> str:
    """A sentence on the minutes that are still wanted; empty when there are enough."""
    had = _total(record["rows"])
    return "" if had >= WANTED else f"{had:.1f} of the {WANTED} server minutes that are wanted."


def _groups(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """By model and arm as they come, stock last, and in these by scene."""
    arms = dict.fromkeys((row["model"], row["arm"]) for row in rows)
    order = sorted(arms, key=lambda one: one[1] == "stock")
    keys = [(model, arm, name) for model, arm in order for name in SCENES]
    found = {key: [row for row in rows if (row["model"], row["arm"], row["test"]) == key] for key in keys}
    return {key: rows for key, rows in found.items() if rows}


def _total(rows: Iterable[Row]) -> float:
    return sum(row["minutes"] for row in rows)


def _minutes(rows: list[Row]) -> str:
    """Of all calls, and how many of them with other options than the usual ones."""
    by_options: dict[str, list[Row]] = {}
    for row in rows:
        by_options.setdefault(_options(row["provenance"]["command"]), []).append(row)
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


def _sums(rows: list[Row]) -> list[str]:
    sums = {key: sum(row[key] for row in rows) for key in _SUMS}
    cells = {key: f"{value:,}" for key, value in sums.items()}
    if all(row["arm"] == "stock" for row in rows):  # which has no summaries
        cells |= dict.fromkeys(("canary_pages_checked", "violations", "pages_rebuilt"), "–")
    if sums["violations"]:
        cells["violations"] = f"**{cells['violations']}**"
    return list(cells.values())


def _problems(rows: list[Row]) -> str:
    """Each kind of problem once, with how often it was seen."""
    seen = Counter(plain(text) for row in rows for text in row["problems"])
    return "; ".join(text if count == 1 else f"{count} × {text}" for text, count in seen.items()) or "–"
