"""Check the patch table against SGLang's source text: no import, no GPU, milliseconds."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sglang_hisa.patches import source
from sglang_hisa.patches.table import PATCHES, USES, VERSIONS, Patch, Use


@dataclass(frozen=True)
class Unfit:
    """An SGLang that cannot be patched."""

    what: str
    reasons: tuple[str, ...]
    fix: str
    compared: bool = False
    """Whether its source was compared with the patch table: the reasons are then those of its rows."""


def installed_version() -> str | None:
    """Version of the SGLang that a server started here imports; None when there is none, or it tells none."""
    try:
        return source.version_of(installed_root())
    except source.SourceError:
        return None


def installed_root() -> Path:
    """Folder of the ``sglang`` package that a server started here imports. Raises ``SourceError``."""
    return source.find_root()


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _module_file(root: Path, parts: list[str]) -> tuple[Path, list[str]] | None:
    """Longest prefix of ``parts`` (after "sglang") that is a module, and the names left over."""
    for stop in range(len(parts), 0, -1):
        base = root.joinpath(*parts[:stop])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path, parts[stop:]
    return None


def _find(body: Iterable[ast.stmt], names: list[str]) -> ast.stmt | None:
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == names[0]:
            if len(names) == 1:
                return node
            return _find(node.body, names[1:])
        imported = node.names if isinstance(node, ast.ImportFrom) and len(names) == 1 else []
        if any((alias.asname or alias.name) == names[0] for alias in imported):
            return node
        if isinstance(node, (ast.If, ast.Try)):
            found = _find([*node.body, *node.orelse], names)
            if found is not None:
                return found
    return None


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    args = node.args
    names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return tuple(names + [a.arg for a in (args.vararg, args.kwarg) if a is not None])


def _check_target(root: Path, target: str, params: tuple[str, ...] | None) -> list[str]:
    parts = target.split(".")[1:]
    where = _module_file(root, parts)
    if where is None:
        return [f"{target}: no such module"]
    path, names = where
    node = _find(_tree(path).body, names)
    if node is None:
        return [f"{target}: {'.'.join(names)} is not in {path.relative_to(root)}"]
    if params is None:
        return []
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [f"{target}: is no longer a function"]
    found = _parameters(node)
    if found != params:
        return [f"{target}: parameters are ({', '.join(found)}), expected ({', '.join(params)})"]
    return []


def _check_callers(root: Path, patch: Patch) -> list[str]:
    problems = []
    for file, expression in patch.callers:
        path = root / file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if not re.search(r"(?<!\w)" + re.escape(expression), text):
            problems.append(f"{patch.target}: {file} no longer reaches it through `{expression}`")
    return problems


def check_sources(root: Path, version: str) -> list[str]:
    """Differences between the table and the SGLang in ``root`` (its ``sglang`` folder); empty if none."""
    if version not in VERSIONS:
        return [_unsupported(root, version)]
    problems: list[str] = []
    rows: tuple[Patch | Use, ...] = (*PATCHES, *USES)
    for row in rows:
        params = row.params.get(version)
        if params is None and (row.params or isinstance(row, Patch)):
            continue
        problems += _check_target(root, row.target, params)
        if isinstance(row, Patch):
            problems += _check_callers(root, row)
    return problems


def _unsupported(root: Path, version: str | None) -> str:
    found = "its version is not known" if version is None else f"{version} is not supported"
    return f"{found} ({root}); supported: {', '.join(VERSIONS)}"


def unfit() -> Unfit | None:
    """Why the SGLang that a server started here imports cannot be patched; None when it can."""
    try:
        root = installed_root()
    except source.SourceError as error:
        return Unfit("there is no SGLang to patch", (str(error),), error.fix)
    version = installed_version()
    if version not in VERSIONS:
        title = f"SGLang {version or 'of an unknown version'} is not supported"
        return Unfit(title, (_unsupported(root, version),), source.replacement(root, VERSIONS[-1]))
    problems = check_sources(root, version)
    if not problems:
        return None
    title = f"SGLang {version} in {root} does not match the patch table"
    return Unfit(title, tuple(problems), source.replacement(root, version), compared=True)


def check_installed() -> list[str]:
    """The reasons of :func:`unfit`; empty if there are none."""
    found = unfit()
    return [] if found is None else list(found.reasons)
