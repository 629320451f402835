"""Options of the commands that write a report and can render one again, and where they write it."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sglang_hisa.launch.common import files

T = TypeVar("T")


def add_options(parser: argparse.ArgumentParser, folder: str, renders: str = "render") -> None:
    """``--out``, ``--force`` and ``--from`` (as ``args.source``); ``folder`` is the default of the first."""
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder of the report (default: {folder}, numbered if it holds a run; or that of --from)",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="write into --out even if it holds a run, whose record is renamed",
    )
    parser.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="RECORD",
        help=f"only {renders} the report of a kept record again: its folder, or its file and --out",
    )


def open_kept(args: argparse.Namespace, load: Callable[[Path], T]) -> T:
    """The record of ``--from``; a usage error where there is none that is whole."""
    try:
        return load(args.source)
    except (ValueError, OSError) as error:
        args.usage_error(f"--from: {error}")
        raise


def report_folder(args: argparse.Namespace, name: str = "report.json", rewrites: bool = True) -> Path:
    """The folder for the report of ``--from``.

    A usage error where it would replace another record, or its own unless it ``rewrites`` the same.
    """
    try:
        folder = files.place(args.source, args.out)
    except ValueError as error:
        args.usage_error(str(error))
    source: Path = args.source if args.source.is_file() else args.source / name
    own = (folder / name).resolve() == source.resolve()
    if not (args.force or (own and rewrites)) and (held := files.held(folder, name)) is not None:
        args.usage_error(f"--out {folder} holds {held}: give another folder, or --force to replace it")
    return _made(args, folder)


def refuse_kept(args: argparse.Namespace, name: str = "report.json") -> None:
    """A usage error where ``--out`` holds measurements that this run would replace."""
    if args.out is not None and not args.force and (held := files.held(args.out, name)) is not None:
        wish = "give another folder, or --force to replace it (its record is renamed)"
        args.usage_error(f"--out {args.out} holds {held}: {wish}")


def new_folder(args: argparse.Namespace, default: str, name: str = "report.json") -> Path:
    """The folder of a new run, made: never one that holds measurements, unless ``--force`` says so.

    A usage error where ``--out`` has some, or takes no file; without it the default, numbered up to one that
    has none.
    """
    refuse_kept(args, name)
    out: Path = args.out or Path(default)
    held = files.held(out, name)
    if held is None:
        return _made(args, out)
    if args.force:
        print(f"{out}: the record there is now {files.set_aside(out, name).name}", file=sys.stderr)
        return _made(args, out)
    number = 2
    while files.held(free := Path(f"{default}-{number}"), name) is not None:
        number += 1
    print(f"{out} holds {held}; this run goes to {free}", file=sys.stderr)
    return _made(args, free)


def _made(args: argparse.Namespace, folder: Path) -> Path:
    """``folder``, made; a usage error if it takes no file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        args.usage_error(f"--out {folder}: nothing can be written there ({error.strerror})")
    return folder
