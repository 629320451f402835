"""Read SGLang's source as syntax trees: no import, no GPU, 20 files in less than a second."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_UNSEEN = frozenset({"ctx", "kind", "type_comment", "type_params"})
"""Fields of syntax nodes that change nothing here, or that some Pythons lack."""


@functools.cache
def tree(path: Path) -> ast.Module:
    """The module in ``path``, parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_file(root: Path, parts: list[str]) -> tuple[Path, list[str]] | None:
    """Longest prefix of ``parts`` (after "sglang") that is a module of ``root``, and the names left over."""
    for stop in range(len(parts), 0, -1):
        base = root.joinpath(*parts[:stop])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path, parts[stop:]
    return None


def find(body: Iterable[ast.stmt], names: list[str]) -> ast.stmt | None:
    """The class or function ``names`` (dotted parts) in ``body``, or the import that brings it."""
    for node in body:
        if isinstance(node, (ast.ClassDef, *_FUNCTIONS)) and node.name == names[0]:
            return node if len(names) == 1 else find(node.body, names[1:])
        imported = node.names if isinstance(node, (ast.Import, ast.ImportFrom)) and len(names) == 1 else []
        if any((alias.asname or alias.name) == names[0] for alias in imported):
            return node
        if isinstance(node, (ast.If, ast.Try)):
            found = find([*node.body, *node.orelse], names)
            if found is not None:
                return found
    return None


def locate(root: Path, target: str) -> tuple[Path | None, ast.stmt | None]:
    """File and definition of the dotted ``target`` in ``root``; None for what is not there."""
    where = module_file(root, target.split(".")[1:])
    if where is None:
        return None, None
    path, names = where
    return path, find(tree(path).body, names) if names else None


def function(root: Path, target: str) -> Function | None:
    """The function ``target``; None where there is none of that name."""
    node = locate(root, target)[1]
    return node if isinstance(node, _FUNCTIONS) else None


def parameters(node: Function) -> tuple[str, ...]:
    """Names of the parameters, in order."""
    args = node.args
    names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return tuple(names + [a.arg for a in (args.vararg, args.kwarg) if a is not None])


def statements(node: Function) -> list[ast.stmt]:
    """The body without its docstring."""
    first = node.body[0]
    documented = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    return node.body[1:] if documented else node.body


def dump(node: object) -> str:
    """A syntax node in one line: equal for equal code, whatever its layout and comments.

    Not ``ast.dump``, whose form differs between Pythons.
    """
    if isinstance(node, ast.AST):
        given = ((name, getattr(node, name, None)) for name in node._fields if name not in _UNSEEN)
        fields = (f"{name}={dump(value)}" for name, value in given if value is not None and value != [])
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(dump, node))}]"
    return repr(node)


def digest(text: str, digits: int = 16) -> str:
    """The first hexadecimal digits of a SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def body_hash(node: Function) -> str:
    """16 hexadecimal digits of parameters, decorators and statements, whatever their layout."""
    return digest(dump([node.args, node.decorator_list, statements(node)]))


def flat(body: Iterable[ast.stmt]) -> Iterator[ast.stmt | ast.ExceptHandler]:
    """Each statement of ``body`` and of the blocks in it, in the order of the source."""
    for node in body:
        yield node
        for name in ("body", "handlers", "orelse", "finalbody"):
            for inner in getattr(node, name, ()):
                if isinstance(inner, ast.ExceptHandler):
                    yield inner
                    yield from flat(inner.body)
                elif isinstance(inner, ast.stmt):
                    yield from flat([inner])


def head(node: ast.stmt | ast.ExceptHandler) -> str:
    """``node`` without the blocks in it: an ``if`` is its condition."""
    blocks = {"body", "handlers", "orelse", "finalbody"}
    parts = [f"{name}={dump(getattr(node, name, None))}" for name in node._fields if name not in blocks]
    return f"{type(node).__name__}({', '.join(parts)})"


@functools.cache
def _text(node: Function) -> str:
    return ast.unparse(node)


def text(node: Function) -> str:
    """The function in Python's own layout, without comments."""
    return _text(node)


def forget() -> None:
    """Drop the trees: a quarter of a million objects, which each full garbage collection would walk."""
    tree.cache_clear()
    _text.cache_clear()
