"""Writes generated pages and parts of pages, or says that they would change."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path

from sglang_hisa.launch.common.help import tool


def parser(module: str, about: str | None, takes: str = "") -> ArgumentParser:
    """The command line of a module of this folder that generates pages."""
    made = tool(f"pages.{module}", takes, about)
    made.add_argument("--check", action="store_true", help="write nothing, exit 1 on a difference")
    return made


def filled(page: str, made: Callable[[str, str], str]) -> str:
    """``page`` with all between ``<!-- table:NAME WANTED -->`` and ``<!-- end -->`` made anew."""
    mark = re.compile(r"(<!-- table:(\w+)(?: ([^\n>]+))? -->\n).*?<!-- end -->", re.DOTALL)
    return mark.sub(lambda found: f"{found[1]}{made(found[2], found[3] or '')}\n<!-- end -->", page)


def write(pages: Mapping[Path, str], check: bool) -> int:
    """Write each page; with ``check`` write none, and return 1 if one would change."""
    if check:
        return int(any(not path.is_file() or path.read_text() != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text)
    return 0
