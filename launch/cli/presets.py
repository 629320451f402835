"""``hisa presets``: what each preset keeps, and every setting with its default and meaning."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import itertools
import json
import re
import textwrap

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa import config
from sglang_hisa.config import PRESETS, Config, Phase, from_mapping
from sglang_hisa.launch.common.help import Help

HEADERS = ("preset", "block", "decode budget", "prefill budget", "end of a prompt")
_NOTE = (
    "A budget is the number of candidate tokens of one row (query token); L is the length of the row's own\n"
    "context. The preset is balanced (*) unless SGLANG_HISA or --preset names another one."
)


def budget(phase: Phase) -> str:
    """A budget in words: ``stock DSA``, ``8192`` or ``max(8192, L/16), 1/4 of the heads``."""
    if not phase.active:
        return "stock DSA"
    by = f", 1/{1 / phase.heads:.0f} of the heads" if phase.heads < 1 else ""
    if not phase.fraction:
        return f"{phase.tokens}{by}"
    share = 1 / phase.fraction
    grows = f"L/{share:.0f}" if abs(share - round(share)) < 1e-9 else f"{phase.fraction:g} L"
    return f"max({phase.tokens}, {grows}){by}"


def row(made: Config) -> tuple[str, str, str, str, str]:
    """One line of the table, in the order of ``HEADERS``."""
    end = budget(made.prefill)
    if made.prefill.active and made.dense_tail_tokens:
        end = f"stock DSA for {made.dense_tail_tokens} tokens"
    return made.title, str(made.block), budget(made.decode), budget(made.prefill), end


def rows() -> list[tuple[str, ...]]:
    """The table of all presets, the default one starred."""
    lines = []
    for name in PRESETS:
        first, *others = row(from_mapping({"preset": name}))
        lines.append((first + (" *" if name == Config().preset else ""), *others))
    return lines


def as_text() -> str:
    """The table for ``--help``, which fits 80 columns: long cells go on below."""
    cells = [[textwrap.wrap(cell, 19) for cell in line] for line in (HEADERS, *rows())]
    lines = [parts for line in cells for parts in itertools.zip_longest(*line, fillvalue="")]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADERS))]
    table = "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)
    return f"presets:\n{table}\n\n{_NOTE}"


@functools.cache
def meanings() -> dict[str, str]:
    """What each setting means: the text below its field in :class:`sglang_hisa.config.Config`."""
    found = {"preset": "The settings to start from."}
    made = ast.parse(inspect.getsource(Config)).body[0]
    assert isinstance(made, ast.ClassDef)
    for field, text in itertools.pairwise(made.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
            plain = re.sub(r" \(:meth:`[^`]*`\)|``", "", str(text.value.value))
            found[field.target.id] = " ".join(plain.split())
    return found


def defaults() -> dict[str, str]:
    """The default of each setting, that of the preset ``balanced``, as ``--set`` takes it."""
    return {
        field.name: field.default if isinstance(field.default, str) else json.dumps(field.default)
        for field in dataclasses.fields(Config)
    }


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "presets",
        help="show what each preset keeps, and every setting with its default",
        description=f"Shows what each preset keeps, and every setting with its default and meaning. {_NOTE}",
        epilog="example:\n  hisa presets",
        formatter_class=Help,
    )
    parser.set_defaults(run=run)


_SETTINGS = "settings: `hisa serve --set KEY=VALUE`, or keys of SGLANG_HISA's JSON"


def run(args: argparse.Namespace) -> int:
    """Print the tables."""
    table = Table(*HEADERS)
    for line in rows():
        table.add_row(*line)
    console = Console(highlight=False)
    console.print(table)
    console.print(" ".join(_NOTE.split()))
    console.print()
    shown = Table("setting", "default", "meaning", title=_SETTINGS, title_justify="left", box=SIMPLE_HEAD)
    usual, texts = defaults(), meanings()
    for key, text in texts.items():
        may = f"\nallowed: {config.allowed(key)}"
        shown.add_row(key, usual[key], Text(text + may))
    console.print(shown)
    return 0
