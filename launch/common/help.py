"""Help texts in which every option says what it is without being given."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping

PROGRAM = "python -m sglang_hisa.launch."


def tool(module: str, takes: str, about: str | None) -> argparse.ArgumentParser:
    """The command line of ``python -m sglang_hisa.launch.MODULE``.

    Args:
        takes: the words that must be given, as its usage shows them.
        about: its docstring: what it does, and examples, indented.
    """
    program = PROGRAM + module
    usage = f"{program} [options] {takes}".rstrip()
    if len(f"usage: {usage}") > 80:
        usage = f"{program}\n       [options] {takes}"
    return argparse.ArgumentParser(
        prog=program, usage=usage, description=about, formatter_class=Help, allow_abbrev=False
    )


def listed(meanings: Mapping[str, str], width: int) -> str:
    """Lines of names, each with its meaning beside it from column ``width`` on, of at most 80 columns."""
    return "\n".join(
        textwrap.fill(
            meaning,
            width=80,
            initial_indent=f"  {name}".ljust(width - 1) + " ",
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
        for name, meaning in meanings.items()
    )


class Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of descriptions, and adds ``(default: ...)`` to options whose text does not say it.

    Paragraphs without an indented line are filled anew where the terminal is narrower than they are.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = []
        for part in text.split("\n\n"):
            lines = part.splitlines()
            flowing = not any(line.startswith(" ") for line in lines)
            if flowing and any(len(line) > width for line in lines):
                part = textwrap.fill(part, width)
            parts.append(part)
        return textwrap.indent("\n\n".join(parts), indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        switch = action.nargs == 0  # off, unless given
        if not action.option_strings or switch or action.required or "default" in text:
            return text
        if action.default is None or action.default == []:
            return f"{text} (default: none)"
        if isinstance(action.default, (list, tuple)):
            return f"{text} (default: {' '.join(map(str, action.default))})"
        return f"{text} (default: %(default)s)"
