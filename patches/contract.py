"""Check the patch table against SGLang's source text: no import, no GPU, milliseconds."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from sglang_hisa.patches.table import PATCHES, USES, VERSIONS, Patch, Use


def installed_version() -> str | None:
    """Version of the installed SGLang, None when there is none."""
    try:
        return metadata.version("sglang")
    except metadata.PackageNotFoundError:
        return None


def installed_root() -> Path:
    """Folder of the installed ``sglang`` package. Raises ``PackageNotFoundError``."""
    return Path(str(metadata.distribution("sglang").locate_file("sglang")))


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
        return [f"SGLang {version} is not supported; supported: {', '.join(VERSIONS)}"]
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


def check_installed() -> list[str]:
    """The same for the installed SGLang; one problem if there is none."""
    version = installed_version()
    if version is None:
        return [f"SGLang is not installed; install one of: {', '.join(VERSIONS)}"]
    return check_sources(installed_root(), version)
