"""Copies of the installed SGLang, and Pythons that have all of this environment's packages but SGLang."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from sglang_hisa.patches import syntax
from sglang_hisa.patches.behaviours import BEHAVIOURS
from sglang_hisa.patches.table import ROWS

SITE = Path(sysconfig.get_paths()["purelib"])
WHEEL = SITE / "sglang"
VERSION_FILE = "__all__ = []\n__version__ = version = {!r}\n"


def copy_named(target: Path, version: str | None = None) -> Path:
    """Those files that the patch table names, of a package that fails when it is imported; its folder.

    ``version`` is what its ``_version.py`` tells; None: it has none, as a checkout that was never built.
    """
    places = [place for row in ROWS for place in row.places]
    files = {file for place in places for file, _ in place.callers} | {"version.py"}
    targets = {place.target for place in places}
    for name in targets.union(*(probe.targets for probe in BEHAVIOURS.values())):
        found = syntax.module_file(WHEEL, name.split(".")[1:])
        if found is not None:
            files.add(str(found[0].relative_to(WHEEL)))
    for file in files:
        if (WHEEL / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(WHEEL / file, target / file)
    (target / "__init__.py").write_text('raise RuntimeError("SGLang was imported")\n')
    if version is not None:
        (target / "_version.py").write_text(VERSION_FILE.format(version))
    return target


def write_metadata(folder: Path, version: str) -> None:
    """What pip leaves in ``folder`` for an SGLang of ``version``."""
    info = folder / f"sglang-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {version}\n")


def python_without_sglang(folder: Path) -> Path:
    """The interpreter of a new environment whose packages are links to this one's, without SGLang.

    Its packages lie in :func:`site_of` it.
    """
    base = Path(sys._base_executable)
    site = folder / SITE.relative_to(sys.prefix)
    site.mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    (folder / "bin" / "python").symlink_to(base)
    for path in SITE.iterdir():
        if path.name != "sglang" and not path.name.startswith("sglang-"):
            (site / path.name).symlink_to(path)
    return folder / "bin" / "python"


def site_of(python: Path) -> Path:
    """Where pip installs for that interpreter."""
    return python.parent.parent / SITE.relative_to(sys.prefix)


def make_project(folder: Path, version: str, *, hook: bool) -> Path:
    """pyproject.toml for the package in ``folder/src/sglang``, or with ``hook`` in ``folder/sglang``.

    Setuptools installs the first by a path in a .pth file, and the second, the layout of SGLang's own, by a
    finder that is put into ``sys.meta_path``.
    """
    where = "" if hook else '[tool.setuptools]\npackage-dir = {"" = "src"}\n'
    find = "." if hook else "src"
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "sglang"\nversion = "{version}"\n{where}'
        f'[tool.setuptools.packages.find]\nwhere = ["{find}"]\ninclude = ["sglang*"]\n'
    )
    return folder


def install_editable(python: Path, project: Path) -> None:
    """``pip install --no-deps -e``, without a network."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = ["-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-e"]
    done = subprocess.run(
        [str(python), *words, str(project)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
