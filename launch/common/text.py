"""Markdown that shows a text literally, numbers of tokens, and where a record comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sglang_hisa.config import ConfigError, parse
from sglang_hisa.launch.common.provenance import Provenance

K = 1024


def tokens(count: int, every: int | None = None) -> str:
    """``8K`` for whole multiples of 1024; ``all`` where it is ``every`` token that there is, or more."""
    if every is not None and count >= every:
        return "all"
    return f"{count // K}K" if count and count % K == 0 else str(count)


def or_dash(value: float | None, form: str = "{}", scale: float = 1) -> str:
    """``value`` times ``scale`` in a form such as ``{:.2f} s``; a dash where there is none."""
    return "–" if value is None else form.format(value * scale)


def origin(where: Mapping[str, Any], model: str, *more: str) -> str:
    """One line: model, machine, versions, commit, ``more``, date of a provenance."""
    named = (("SGLang", "sglang"), ("torch", "torch"), ("driver", "driver"), ("commit", "commit"))
    parts = [model, where.get("gpu") or where.get("cpu")]
    parts += [f"{label} {where[key]}" for label, key in named if where.get(key)]
    return ", ".join(str(part) for part in (*parts, *more, (where.get("date") or "")[:10]) if part)


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


def source(where: Provenance, path: str, gpus: int = 1) -> str:
    """The line below a table: machine, versions, commit and date of its record, and the link to ``path``."""
    machine = where.gpu or "a CPU"
    parts = [f"{gpus} × {machine}" if gpus > 1 else machine]
    parts += [f"SGLang {where.sglang}"] if where.gpu else []
    parts += [f"torch {where.torch}", f"commit {where.commit}", where.day]
    return f"<sub>{', '.join(parts)}; [`{path.lstrip('./')}`]({path})</sub>"


def plain(text: str) -> str:
    """``text`` as Markdown that shows it literally, in a table cell too."""
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_|\[\]~])", r"\\\1", one_line)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; its texts are Markdown already."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
