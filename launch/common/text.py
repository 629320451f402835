"""Markdown that shows a text literally, numbers of tokens, and where a record comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sglang_hisa.config import ConfigError, parse

K = 1024


def tokens(count: int) -> str:
    """``8K`` for whole multiples of 1024."""
    return f"{count // K}K" if count and count % K == 0 else str(count)


def origin(where: Mapping[str, Any], model: str, *more: str) -> str:
    """One line: model, machine, versions, commit, ``more``, date of a provenance."""
    named = (("SGLang", "sglang"), ("torch", "torch"), ("driver", "driver"), ("commit", "commit"))
    parts = [model, where.get("gpu") or where.get("cpu")]
    parts += [f"{label} {where[key]}" for label, key in named if where.get(key)]
    return ", ".join(str(part) for part in (*parts, *more, (where.get("date") or "")[:10]) if part)


def source(where: Mapping[str, Any], path: str, gpus: int = 1) -> str:
    """The line below a table of a GPU record: machine, versions, commit, date, and the link to ``path``."""
    gpu = f"{gpus} × {where['gpu']}" if gpus > 1 else where["gpu"]
    versions = f"SGLang {where['sglang']}, torch {where['torch']}, commit {where['commit']}"
    return f"<sub>{gpu}, {versions}, {where['date'][:10]}; [`{path.lstrip('./')}`]({path})</sub>"


def setting(value: str | None) -> str:
    """A value of ``SGLANG_HISA`` in words: ``stock``, ``paper``, or ``paper, block=64`` if changed."""
    if value is None:
        return "stock"
    try:
        made = parse(value)
    except ConfigError:  # of an older version: as it says itself
        return value
    changes = (f"{key}={json.dumps(getattr(made, key))}" for key in made.changed)
    return ", ".join((made.preset, *changes))


def together(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """One provenance for :func:`source` of rows that have one each: lists of what differs, newest date."""
    made = [row["provenance"] for row in rows]
    found = {
        key: ", ".join(dict.fromkeys(where[key] for where in made))
        for key in ("gpu", "sglang", "torch", "commit")
    }
    return {**found, "date": max(where["date"] for where in made)}


def plain(text: str) -> str:
    """``text`` as Markdown that shows it literally, in a table cell too."""
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_|\[\]~])", r"\\\1", one_line)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; its texts are Markdown already."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
