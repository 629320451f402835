"""Options of the commands that write a report and can render one again."""

from __future__ import annotations

import argparse
from pathlib import Path


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
