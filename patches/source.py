"""Which SGLang ``import sglang`` would take: found without importing it, whatever pip says is installed.

A server is ``python -m sglang.launch_server``, so it looks into its own folder first; an editable install, a
copy on PYTHONPATH or a checkout may come before the wheel whose metadata pip shows.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import shlex
import site
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import machinery, metadata
from pathlib import Path

from sglang_hisa.patches.releases import NEWEST

PACKAGE = "sglang"
INSTALL = f"pip install {PACKAGE}=={NEWEST}"
"""With its requirements: for a Python that has no SGLang, so nothing can be moved."""


class SourceError(ImportError):
    """There is no SGLang source that could be read; ``fix`` says what to do."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


@dataclass(frozen=True)
class Record:
    """What pip knows of one SGLang: the metadata of a distribution, which need not be that of the source."""

    version: str
    root: Path
    """Where its ``sglang`` folder should be."""
    project: Path | None
    """Folder of the project where it is an editable install."""
    installed: bool
    """Whether the metadata lies where pip installs, so that pip would replace this one."""

    def describes(self, root: Path) -> bool:
        """Whether the source in ``root`` is this distribution's."""
        here = root.resolve()
        return self.root.resolve() == here or (
            self.project is not None and here.is_relative_to(self.project.resolve())
        )


@contextlib.contextmanager
def _as_a_server() -> Iterator[None]:
    """The path of ``python -m``: the current folder, before everything else."""
    before = list(sys.path)
    if not sys.flags.safe_path:
        sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path[:] = before


def pass_over(folder: Path) -> str:
    """How to keep Python from taking what lies in ``folder``, an entry of its path."""
    if folder.resolve() == Path.cwd().resolve():
        return f"start from another folder than {folder}"
    return f"take {folder} off PYTHONPATH"


def find_root() -> Path:
    """Folder of the ``sglang`` package that a server started here imports; symlinks are kept.

    Raises:
        SourceError: none, a folder without ``__init__.py``, or one whose sources cannot be read.
    """
    try:
        with _as_a_server():
            spec = importlib.util.find_spec(PACKAGE)
    except ValueError:  # a module of that name was put into sys.modules by hand
        spec = None
    if spec is None:
        raise SourceError(f"SGLang is not installed in the Python {sys.executable}", INSTALL)
    if spec.origin is None or not spec.has_location:
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        names = ", ".join(map(str, folders))
        # A package anywhere on the path comes before such folders, but not the hook of an editable install.
        fix = " and ".join(pass_over(folder.parent) for folder in folders) if copies() else INSTALL
        raise SourceError(
            f"`import {PACKAGE}` finds {names}, which has no __init__.py, so it is not SGLang", fix
        )
    init = Path(spec.origin)
    if init.is_file() and init.name == "__init__.py":
        return init.parent
    entry = init.parent if spec.submodule_search_locations is None else init.parent.parent
    what = "which is not a package with Python sources" if init.is_file() else "which is inside an archive"
    fix = pass_over(entry) + ("" if len(copies()) > 1 else f", then {INSTALL}")
    raise SourceError(f"`import {PACKAGE}` finds {init}, {what}, so it cannot be checked", fix)


def _literal(path: Path) -> str | None:
    """The string that a module assigns to ``__version__``."""
    if not path.is_file():
        return None
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        if any(isinstance(target, ast.Name) and target.id == "__version__" for target in node.targets):
            return str(node.value.value)
    return None


def own_version(root: Path) -> str | None:
    """Version that the source in ``root`` itself tells; a checkout that was never built tells none."""
    return _literal(root / "_version.py") or _literal(root / "version.py")


def records() -> list[Record]:
    """The metadata of every SGLang on the path; ``importlib.metadata`` uses the first."""
    found = []
    sites = {Path(folder).resolve() for folder in (*site.getsitepackages(), site.getusersitepackages())}
    for dist in metadata.distributions(name=PACKAGE):
        url = json.loads(dist.read_text("direct_url.json") or "{}")
        project = None
        if url.get("dir_info", {}).get("editable"):
            project = Path(urllib.request.url2pathname(urllib.parse.urlparse(url["url"]).path))
        folder = Path(str(dist.locate_file("")))
        found.append(Record(dist.version, folder / PACKAGE, project, folder.resolve() in sites))
    return found


def version_of(root: Path) -> str | None:
    """Version of the source in ``root`` as ``sglang/version.py`` finds it: its own, or the metadata's."""
    own = own_version(root)
    return own or next((record.version for record in records()), None)


def copies() -> list[Path]:
    """Folders of all ``sglang`` packages that Python could take, in the order of its path, each once."""
    found: dict[Path, Path] = {}

    def add(spec: machinery.ModuleSpec | None) -> None:
        if spec is not None and spec.has_location and spec.origin:
            root = Path(spec.origin).parent
            found.setdefault(root.resolve(), root)

    with _as_a_server():
        for finder in sys.meta_path:
            if finder is machinery.PathFinder:
                for entry in sys.path:
                    add(machinery.PathFinder.find_spec(PACKAGE, [entry]))
            elif hasattr(finder, "find_spec"):  # that of an editable install among them
                add(finder.find_spec(PACKAGE, None, None))
    return list(found.values())


def others(root: Path) -> list[Path]:
    """The copies that ``root`` comes before."""
    return [copy for copy in copies() if copy.resolve() != root.resolve()]


def agreeing(root: Path) -> str:
    """What to type, or to do, so that the metadata and the source that is imported are of one version."""
    for record in records():
        if record.installed and record.describes(root):
            if record.project is not None:
                return f"pip install --no-deps -e {shlex.quote(str(record.project))}"
            return f"pip install --no-deps --force-reinstall {PACKAGE}=={record.version}"
    return pass_over(root.parent)


def replacement(root: Path, version: str) -> str:
    """What to type, or to do, so that servers import the release of ``version`` and not what is in ``root``.

    Without requirements: what a working environment pins is not moved; ``pip check`` names what differs.
    """
    install = f"{PACKAGE}=={version} && pip check"
    for record in records():
        if record.installed and record.describes(root):
            force = "--force-reinstall " * (record.version == version)
            return f"pip install --no-deps {force}{install}"
    return pass_over(root.parent) + ("" if others(root) else f", then pip install --no-deps {install}")
