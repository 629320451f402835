"""Writes generated pages, or says that they would change."""

from __future__ import annotations

from argparse import ArgumentParser, RawTextHelpFormatter
from collections.abc import Mapping
from pathlib import Path


def parser(about: str | None) -> ArgumentParser:
    """The command line of a module that generates pages."""
    made = ArgumentParser(description=about, formatter_class=RawTextHelpFormatter)
    made.add_argument("--check", action="store_true", help="write nothing, exit 1 on a difference")
    return made


def write(pages: Mapping[Path, str], check: bool) -> int:
    """Write each page; with ``check`` write none, and return 1 if one would change."""
    if check:
        return int(any(not path.is_file() or path.read_text() != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text)
    return 0
