"""Every ``--help``: of ``hisa``, its subcommands, and the tools of ``python -m sglang_hisa.launch``."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa import launch
from sglang_hisa.launch.cli import make_parser
from sglang_hisa.launch.common.help import PROGRAM

ROOT = Path(next(iter(launch.__path__)))
CHILDREN = {"common/generator.py", "common/session.py", "live/keyed_router.py", "eval/child.py"}
"""Started by our own processes, with what they need to know."""


def tools() -> list[str]:
    """Modules of ``launch`` that a person runs with ``python -m``, but for ``hisa``."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if re.search("^if __name__ == .__main__.:", path.read_text(), re.MULTILINE) and name not in CHILDREN:
            found.append(name.removesuffix(".py").removesuffix("/__main__").replace("/", "."))
    return found


class _Parsed(Exception):
    """Raised with a parser in place of its answer."""


@pytest.fixture
def of_main(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The parser that the ``main`` of a module makes."""
    monkeypatch.setenv("COLUMNS", "80")

    def stop(parser: argparse.ArgumentParser, *args: Any) -> None:
        raise _Parsed(parser)

    def found(module: Any) -> argparse.ArgumentParser:
        with monkeypatch.context() as patch, pytest.raises(_Parsed) as caught:
            for name in ("parse_args", "parse_known_args"):
                patch.setattr(argparse.ArgumentParser, name, stop)
            module.main([])
        parser: argparse.ArgumentParser = caught.value.args[0]
        return parser

    return found


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """``parser`` and all its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def check(parser: argparse.ArgumentParser) -> None:
    """It is narrow, says what it does, has an example, and tells what each option is when not given."""
    text = parser.format_help()
    wide = [line for line in text.splitlines() if len(line) > 80]
    assert not wide, (parser.prog, wide)
    usage, about, *_ = text.split("\n\n")
    assert usage.startswith(f"usage: {parser.prog}") and about[0].isupper() and about[-1] == ".", parser.prog
    assert re.search(rf"\n  {re.escape(parser.prog)}\b", text.removeprefix(usage)), (
        parser.prog,
        "no example",
    )
    assert ":`" not in text and "``" not in text, (parser.prog, "written for other readers")
    listed = " ".join(text.partition("\noptions:")[2].split())
    for action in parser._actions:
        assert action.help or action.nargs == argparse.PARSER, (parser.prog, action.dest, "what is it?")
        if action.option_strings and action.nargs != 0 and not action.required:
            told = re.search(rf"{action.option_strings[-1]} [^-].*?\(default: ([^)]*)\)", listed)
            assert told, (parser.prog, action.option_strings)
            default = action.default
            if default not in (None, []) and not isinstance(default, Path) and "all" not in told[1]:
                shown = default if isinstance(default, list) else [default]
                assert " ".join(map(str, shown)).replace(" ", "") in told[1].replace(" ", ""), told[0]


@pytest.mark.parametrize("name", tools())
def test_help_of_a_tool(name: str, of_main: Any) -> None:
    package = importlib.import_module(f"sglang_hisa.launch.{name}")
    main = (
        importlib.import_module(f"{package.__name__}.__main__") if hasattr(package, "__path__") else package
    )
    parser = of_main(main)
    assert parser.prog in (PROGRAM + name, f"hisa {name.replace('.', ' ')}")
    for one in parsers(parser):
        check(one)


def test_help_of_hisa_and_its_subcommands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    asked = {parser.prog: parser for parser in parsers(make_parser())}
    assert {"hisa", "hisa ab", "hisa bench", "hisa model slice"} <= asked.keys()
    for parser in asked.values():
        if parser.add_help:  # else the tool's own
            check(parser)
