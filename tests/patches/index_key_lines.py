"""Every line of SGLang that names index keys, beside the list of what HISA does about each.

python -m tests.patches.index_key_lines    print what the installed SGLang has and the list has not, and back

Whatever writes index keys must be followed by a seal, or be declined at start: ``index_keys/VERSION.txt``
says which, function by function. Lines are found by the names through which index keys, or their addresses,
are reached. A writer needs one of them, even if it then passes the buffer on under another name.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sglang_hisa.patches import contract

LISTS = Path(__file__).with_name("index_keys")

NAMES = re.compile(
    r"index_k_with_scale|index_key_cache|IndexKeyCache|[gs]et_index_k_|index_k_(?:write|read)_|store_index_k"
    r"|^(?:get_)?state_buf_infos$|SetKAndS|k_indexer_norm_rope_store|indexer_k_quant_and_cache"
)
"""Names of the buffers, of what hands them or their addresses out, and of the kernels that store to them."""
OWN_BUFFER = "buffer"
"""What a class ``...IndexKeyCache`` calls its buffers."""
MODULE = "(module)"


@dataclass(frozen=True, order=True)
class Line:
    """A line of SGLang, known by where it stands and what it says, so that it may move within a function."""

    file: str
    """Below the ``sglang`` folder."""
    function: str
    """Qualified name of the innermost function or class around it."""
    text: str
    """Without indentation."""


@dataclass(frozen=True)
class Group:
    """Lines about which HISA does one thing."""

    kind: str
    """The first word of its heading, up to the colon."""
    what: str
    """The rest of it: hooks, or names of what is declined, and more."""
    lines: tuple[Line, ...]


def _names(node: ast.AST, in_cache: bool) -> Iterator[tuple[str, int]]:
    """Names that ``node`` itself has, and the lines where they stand."""
    if isinstance(node, ast.Attribute):
        yield node.attr, node.end_lineno or node.lineno
        if in_cache and node.attr == OWN_BUFFER:
            yield "IndexKeyCache.buffer", node.end_lineno or node.lineno
    elif isinstance(node, ast.Name):
        yield node.id, node.lineno
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, node.lineno
    elif isinstance(node, ast.arg | ast.keyword):
        yield node.arg or "", node.lineno
    elif isinstance(node, ast.alias):
        yield from ((name, node.lineno) for name in (node.name, node.asname or ""))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
        yield node.value, node.lineno  # getattr(pool, "index_k_with_scale_buffer")


def _walk(node: ast.AST, function: str, in_cache: bool) -> Iterator[tuple[int, str]]:
    """Numbers of the lines below ``node`` that have such a name, with the function around each."""
    for child in ast.iter_child_nodes(node):
        inside, cache = function, in_cache
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = child.name if function == MODULE else f"{function}.{child.name}"
            cache = in_cache or (isinstance(child, ast.ClassDef) and child.name.endswith("IndexKeyCache"))
        yield from ((at, inside) for name, at in _names(child, cache) if NAMES.search(name))
        yield from _walk(child, inside, cache)


def find(root: Path) -> Counter[Line]:
    """Lines of the ``sglang`` folder ``root``, each as often as its function has it. Comments and docstrings
    do not count.
    """
    found: Counter[Line] = Counter()
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if NAMES.search(text) or "state_buf_infos" in text:
            lines, file = text.splitlines(), path.relative_to(root).as_posix()
            numbers = sorted(set(_walk(ast.parse(text), MODULE, False)))
            found.update(Line(file, name, lines[at - 1].strip()) for at, name in numbers)
    return found


def parse(text: str) -> list[Group]:
    """The groups of a list.

    Raises:
        ValueError: a line that stands in no group or no function, or a heading without a colon.
    """
    groups: list[Group] = []
    where: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("["):
            kind, colon, what = line.strip("[]").partition(": ")
            if not colon:
                raise ValueError(f"line {number}: a heading is [kind: what], not {line}")
            groups, where = [*groups, Group(kind, what, ())], []
        elif not line.startswith(" "):
            where = line.split(" ", 1)
        elif groups and len(where) == 2:
            last = groups[-1]
            groups[-1] = Group(last.kind, last.what, (*last.lines, Line(*where, line.strip())))
        else:
            raise ValueError(f"line {number}: no group or no function above {line.strip()}")
    return groups


def listed(version: str) -> list[Group]:
    """What is listed for a version of SGLang."""
    return parse((LISTS / f"{version}.txt").read_text(encoding="utf-8"))


def show(lines: Iterable[Line]) -> str:
    """Lines as a list has them, to paste below a heading."""
    out: list[str] = []
    above = ("", "")
    for line in lines:
        if (line.file, line.function) != above:
            above = line.file, line.function
            out.append(" ".join(above))
        out.append(f"    {line.text}")
    return "\n".join(out)


def differences(found: Counter[Line], groups: Iterable[Group], name: str) -> list[str]:
    """What must be done so that the list called ``name`` is that of ``found``; empty if it is."""
    known = Counter(line for group in groups for line in group.lines)
    new, gone = list((found - known).elements()), list((known - found).elements())
    out = []
    if new:
        out.append(
            "SGLang has lines about index keys that are not listed. Read what each function does with them. "
            "If it writes them, HISA must seal after it (patches/table.py) or decline it at start "
            f"(patches/features.py). Then put the lines below the heading that says so in {name}:\n"
            f"{show(new)}"
        )
    if gone:
        out.append(
            "Listed lines that SGLang has no more. See where their work is done now, and whether the hook or "
            f"the declined feature of their heading is still needed; then take them out of {name}:\n"
            f"{show(gone)}"
        )
    return out


def installed_differences() -> list[str]:
    """The differences of the installed SGLang from its list."""
    version = contract.installed_version() or "none"
    name = f"tests/patches/index_keys/{version}.txt"
    return differences(find(contract.installed_root()), listed(version), name)


if __name__ == "__main__":
    problems = installed_differences()
    print("\n\n".join(problems) or "every line is listed")
    sys.exit(bool(problems))
