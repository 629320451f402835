"""Options of the commands that write a report and can render one again, and where they write it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_options(parser: argparse.ArgumentParser, folder: str, renders: str = "render") -> None:
    """``--out``, ``--force`` and ``--from`` (as ``args.source``); ``folder`` is the default of the first."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder of the report (default: {folder}, numbered where one holds a run; or that of --from)",
    )
    parser.add_argument(
        "--force", action="store_true", help="write into --out although it holds a run; its record is renamed"
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="RECORD",
        help=f"only {renders} a kept record again: its folder, or its file and --out",
    )


def new_folder(args: argparse.Namespace, default: str, name: str = "report.json") -> Path:
    """The folder of a new run: never one that holds measurements, unless ``--force`` says so.

    A usage error where ``--out`` has some; without it the default, numbered up to one that has none.
    """
    from sglang_hisa.launch.common import files

    out: Path = args.out or Path(default)
    held = files.held(out, name)
    if held is None:
        return out
    if args.force:
        print(f"{out}: the record there is now {files.set_aside(out, name).name}", file=sys.stderr)
        return out
    if args.out is not None:
        args.usage_error(
            f"--out {out} holds {held}: say another folder, or --force to replace it (its record is renamed)"
        )
    number = 2
    while files.held(free := Path(f"{default}-{number}"), name) is not None:
        number += 1
    print(f"{out} holds {held}; this run goes to {free}", file=sys.stderr)
    return free


def check_place(
    args: argparse.Namespace, folder: Path, name: str = "report.json", rewrites: bool = True
) -> None:
    """A usage error where the report of ``--from`` would replace another record, or its own unless it
    ``rewrites`` the same."""
    from sglang_hisa.launch.common import files

    source: Path = args.source if args.source.is_file() else args.source / name
    own = (folder / name).resolve() == source.resolve()
    if args.force or (own and rewrites) or (held := files.held(folder, name)) is None:
        return
    args.usage_error(f"--out {folder} holds {held}: say another folder, or --force to replace it")
