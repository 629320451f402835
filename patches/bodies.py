"""Add SGLangs to the bodies that HISA knows.

    python -m sglang_hisa.patches.bodies PATH...          write patches/bodies.json
    python -m sglang_hisa.patches.bodies --check PATH...  say what would be new, and write nothing

PATH is the folder of a ``sglang`` package, or one that has it: site-packages, or an unpacked wheel. Read what
is new before you add it: HISA serves every SGLang whose bodies are in the file.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sglang_hisa.patches import contract, known, source, syntax
from sglang_hisa.patches.behaviours import BEHAVIOURS
from sglang_hisa.patches.features import FEATURES
from sglang_hisa.patches.table import ROWS
from sglang_hisa.patches.unreached import UNREACHED


def package(path: Path) -> Path:
    """The ``sglang`` folder in or at ``path``. Raises ``SystemExit``."""
    for root in (path, path / "sglang"):
        if (root / "srt").is_dir() and (root / "version.py").is_file():
            return root
    raise SystemExit(f"{path}: no sglang package is here, nor in a folder of that name")


def arguments(root: Path) -> set[str]:
    """Names of the fields of ``ServerArgs``, the groups that it inherits from among them."""
    files = [*(root / "srt").glob("server_args*.py"), *(root / "srt" / "arg_groups").rglob("*.py")]
    found = set()
    for file in files:
        for node in ast.walk(syntax.tree(file)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return found


def facts(root: Path) -> dict[str, Any]:
    """What docs/supported.md says of one release."""
    fields = arguments(root)
    behaviours = frozenset(name for name, probe in BEHAVIOURS.items() if contract.shows(root, probe))
    places = {}
    for row in ROWS:
        place = contract.place_of(root, row)[0] if contract.wanted(row, behaviours) else None
        if place is not None:
            places[row.places[0].target] = place.target
    return {
        "behaviours": sorted(behaviours),
        "places": places,
        "arguments": [feature.argument for feature in FEATURES if feature.argument in fields],
        "unreached": [row.typed for row in UNREACHED if (root / row.module).is_file()],
    }


def relied(root: Path) -> list[str]:
    """Functions of ``root`` whose bodies count."""
    behaviours = contract.read(root).behaviours
    places = [
        contract.place_of(root, row)[0] for row in ROWS if row.relies and contract.wanted(row, behaviours)
    ]
    return [place.target for place in places if place is not None and syntax.function(root, place.target)]


def _without(data: dict[str, Any], version: str) -> None:
    """Forget what the file says of ``version``."""
    for target in list(data["bodies"]):
        for body in list(data["bodies"][target]):
            body["releases"] = [name for name in body["releases"] if name != version]
            if not body["releases"]:
                data["bodies"][target].remove(body)
        if not data["bodies"][target]:
            del data["bodies"][target]
    data["releases"].pop(version, None)


def add(data: dict[str, Any], root: Path, version: str) -> None:
    """Note the bodies and facts of the SGLang in ``root`` as those of ``version``."""
    _without(data, version)
    for target in relied(root):
        node = syntax.function(root, target)
        assert node is not None
        made = known.fingerprint(node)
        bodies = data["bodies"].setdefault(target, [])
        same = next((body for body in bodies if body["hash"] == made["hash"]), None)
        if same is None:
            bodies.append({"releases": [version], **made})
        else:
            same["releases"].append(version)
    data["releases"][version] = facts(root)


def _report(roots: Iterable[tuple[Path, str]]) -> int:
    """Print what differs from the table and what is new; the number of those that do not fit."""
    unfit = 0
    for root, version in roots:
        found = contract.read(root)
        unfit += bool(found.problems)
        print(
            f"SGLang {version} in {root}: {len(found.problems)} problems, {len(found.unknown)} unknown bodies"
        )
        for line in (*found.problems, *map(str, found.unknown)):
            print(f"  - {line}")
    return unfit


def main(argv: list[str] | None = None) -> int:
    """The command; 1 when an SGLang does not fit the patch table, or with ``--check`` has unknown bodies."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    roots = [(root, source.own_version(root) or "unknown") for root in map(package, args.paths)]
    unfit = _report(roots)
    if args.check:
        return int(bool(unfit) or any(contract.read(root).unknown for root, _ in roots))
    if unfit:
        return 1
    data = known.load()
    for root, version in roots:
        add(data, root, version)
    known.FILE.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
