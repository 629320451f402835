"""Options of the commands that write a report and can render one again, and what they name."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang_hisa.launch.common import files


def add_options(parser: argparse.ArgumentParser, folder: str, renders: str = "render") -> None:
    """``--out`` and ``--from`` (as ``args.source``); ``folder`` is the default of the first."""
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"folder of the report (default: {folder}, or that of --from)"
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="RECORD",
        help=f"only {renders} a kept record again: its folder, or its file and --out",
    )


def open_kept(
    args: argparse.Namespace, load: Callable[[Path], dict[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """Folder for the report, and the record, of ``--from``; a usage error where there is no such record."""
    try:
        folder, record = files.place(args.source, args.out), load(args.source)
    except (ValueError, OSError) as error:
        args.usage_error(f"--from: {error}")
    if args.out is not None:
        make_folder(args, "")
    return folder, record


def make_folder(args: argparse.Namespace, usual: str) -> Path:
    """The folder of ``--out`` (``usual`` where it was not given), made; a usage error if it takes no file."""
    folder = args.out or Path(usual)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        args.usage_error(f"--out {folder}: nothing can be written there ({error.strerror})")
    return folder
