"""``hisa presets``: what each preset keeps."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from sglang_hisa.config import PRESETS, Config, Phase, from_mapping

HEADERS = ("preset", "block", "decode budget", "prefill budget", "end of a prompt")
_NOTE = (
    "Budgets are candidate tokens of one row; L is the row's own context length, in tokens. Unless\n"
    "SGLANG_HISA or --preset names another one, the preset is balanced (*)."
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


def row(config: Config) -> tuple[str, str, str, str, str]:
    """One line of the table, in the order of ``HEADERS``."""
    changed = config != from_mapping({"preset": config.preset})
    name = config.preset + (", changed" if changed else "")
    end = budget(config.prefill)
    if config.prefill.active and config.dense_tail_tokens:
        end = f"{config.dense_tail_tokens} rows stock DSA"
    return name, str(config.block), budget(config.decode), budget(config.prefill), end


def rows() -> list[tuple[str, ...]]:
    """The table of all presets, the default one starred."""
    lines = []
    for name in PRESETS:
        first, *others = row(from_mapping({"preset": name}))
        lines.append((first + (" *" if name == Config().preset else ""), *others))
    return lines


def as_text() -> str:
    """The table for ``--help``."""
    lines = [HEADERS, *rows()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADERS))]
    table = "\n".join("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)
    return f"presets:\n{table}\n\n{_NOTE}"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("presets", help="what each preset keeps", description=_NOTE)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    table = Table(*HEADERS)
    for line in rows():
        table.add_row(*line)
    console = Console(highlight=False)
    console.print(table)
    console.print(_NOTE)
    return 0
