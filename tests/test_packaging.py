"""The wheel and an editable install have all of the checkout, as seen from outside it.

Inside a checkout ``sglang_hisa/__init__.py`` finds kernels/, patches/ and launch/ whatever the wheel lacks.
So a copy of it, with another version and one more package, is installed into environments that have
everything but sglang-hisa.
"""

import json
import os
import re
import shutil
import site
import subprocess
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.pages.tables import ROOT

pytestmark = [pytest.mark.once("0.5.23"), pytest.mark.timeout(300)]

INSTALLED = {"sglang_hisa": "sglang_hisa"} | {f: f"sglang_hisa/{f}" for f in ("kernels", "patches", "launch")}
NOT_SHIPPED = re.compile("kernels/NOTES.md|launch/(docker|requirements|results|research)/")
VERSION = "9.8.7"

# Finds each module named on stdin without running its parents, then imports those that need no torch.
PROBE = """
import importlib, json, sys
from importlib.metadata import distribution

def find(name):
    parent = name.rpartition(".")[0]
    above = find(parent) if parent else None
    if parent and above is None:
        return None
    path = above.submodule_search_locations if above else None
    return next(filter(None, (finder.find_spec(name, path) for finder in sys.meta_path)), None)

names = json.load(sys.stdin)
files = {name: getattr(find(name), "origin", None) for name in names}
sys.modules.update(dict.fromkeys(("torch", "triton", "sglang")))
lacks = {}
for name in names:
    try:
        if not name.endswith(".__main__"):
            importlib.import_module(name)
        lacks[name] = None
    except ModuleNotFoundError as error:
        lacks[name] = error.name.partition(".")[0]
metadata = distribution("sglang-hisa").metadata.json
print(json.dumps({"files": files, "lacks": lacks, "metadata": metadata}))
"""

LOAD = """
import sglang_hisa.kernels, sglang_hisa.patches, sglang_hisa.launch
from importlib.metadata import distribution

entries = distribution("sglang-hisa").entry_points
print(sglang_hisa.launch.__file__, *sorted(entry.load().__module__ for entry in entries))
"""


@dataclass(frozen=True)
class Installation:
    """sglang-hisa of ``tree`` in an environment of its own; its modules must come from ``prefix``."""

    tree: Path
    python: Path
    hisa: Path
    prefix: Path
    search: str = ""

    def run(self, *command: str | Path, given: str = "") -> str:
        """What ``command`` prints when it runs outside the checkout."""
        return run(*command, cwd=self.python.parent, PYTHONPATH=self.search, given=given)


def run(*command: str | Path, cwd: Path, given: str = "", **more: str) -> str:
    """What a command prints. It has none of our variables that add modules, and pip asks no index."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    env |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "OMP_NUM_THREADS": "1"} | more
    done = subprocess.run(command, input=given, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def copy_checkout(to: Path) -> Path:
    """What the container image is built from, with version 9.8.7 and the package ``launch/new/deep``."""
    to.mkdir()
    dockerfile = (ROOT / "launch" / "docker" / "Dockerfile").read_text()
    for name in " ".join(re.findall(r"^COPY (.*) \S+$", dockerfile, re.M)).split():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, to)
    add_package(to / "launch" / "new" / "deep")
    source = to / "sglang_hisa" / "__init__.py"
    text, changed = re.subn("(?m)^__version__ = .*$", f'__version__ = "{VERSION}"', source.read_text())
    assert changed == 1
    source.write_text(text)
    return to


def add_package(folder: Path) -> None:
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()


def make_environment(home: Path) -> Path:
    """An environment with links to all that this one has, but for sglang-hisa; returns its Python."""
    venv.create(home, symlinks=True)
    there = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    for folder in site.getsitepackages():
        for path in Path(folder).glob("*"):
            if "sglang_hisa" not in path.name and not (there / path.name).exists():
                (there / path.name).symlink_to(path)
    return home / "bin" / "python"


def files_of(tree: Path) -> dict[str, Path]:
    """By their names in a wheel, the files of the four folders that are shipped."""
    found = {}
    for folder, name in INSTALLED.items():
        for path in (tree / folder).rglob("*"):
            if (
                path.is_file()
                and path.suffix != ".pyc"
                and not NOT_SHIPPED.match(str(path.relative_to(tree)))
            ):
                found[f"{name}/{path.relative_to(tree / folder)}"] = path
    return found


def modules_of(tree: Path) -> list[str]:
    """Names of all modules of the four folders; shims are on no package's path."""
    sources = [name.removesuffix(".py") for name in files_of(tree) if name.endswith(".py")]
    return sorted(
        name.removesuffix("/__init__").replace("/", ".") for name in sources if "/shims/" not in name
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("wheel")
    tree, python = copy_checkout(home / "tree"), make_environment(home / "env")
    run(python, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", home, tree, cwd=home)
    return home / f"sglang_hisa-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def from_wheel(wheel: Path) -> Installation:
    home = wheel.parent
    python, there = home / "env" / "bin" / "python", home / "site"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--target", there, wheel, cwd=home)
    return Installation(home / "tree", python, there / "bin" / "hisa", there, search=str(there))


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    home = tmp_path_factory.mktemp("editable")
    tree, python = copy_checkout(home / "tree"), make_environment(home / "env")
    run(python, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e", ".", cwd=tree)
    add_package(tree / "patches" / "newer" / "deep")  # after the install
    return Installation(tree, python, python.parent / "hisa", tree)


@pytest.fixture(params=["from_wheel", "editable"])
def installation(request: pytest.FixtureRequest) -> Installation:
    found: Installation = request.getfixturevalue(request.param)
    return found


def test_the_wheel_has_the_files_of_the_four_folders_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {name for name in names if ".dist-info/" not in name}
    assert ours == set(files_of(wheel.parent / "tree"))
    assert "sglang_hisa/launch/new/deep/__init__.py" in ours
    assert f"sglang_hisa-{VERSION}.dist-info/licenses/LICENSE" in names


def test_every_module_is_found_and_imported_outside_the_checkout(installation: Installation) -> None:
    names = modules_of(installation.tree)
    answer: dict[str, Any] = json.loads(
        installation.run(installation.python, "-c", PROBE, given=json.dumps(names))
    )
    assert [name for name, file in answer["files"].items() if file is None] == []
    assert all(Path(file).is_relative_to(installation.prefix) for file in answer["files"].values())
    assert set(answer["lacks"].values()) <= {None, "torch", "triton", "sglang"}, answer["lacks"]
    assert all(
        answer["lacks"][f"sglang_hisa.{name}"] is None
        for name in ("launch.cli", "patches.plugin", "launch.ab.plan")
    )
    assert answer["metadata"]["version"] == VERSION
    assert answer["metadata"]["license_expression"] == "Apache-2.0"


def test_kernels_and_entry_points_load_outside_the_checkout(installation: Installation) -> None:
    file, *entries = installation.run(installation.python, "-c", LOAD).split()
    assert Path(file).is_relative_to(installation.prefix)
    assert entries == ["sglang_hisa.launch.cli", "sglang_hisa.patches", "sglang_hisa.patches.cpu"]


def test_the_command_tells_the_version(installation: Installation) -> None:
    assert installation.run(installation.hisa, "--version").strip() == f"sglang-hisa {VERSION}"
