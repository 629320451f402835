"""The SGLang that is checked is the one that ``import sglang`` takes, wherever it comes from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.patches.releases import NEWEST, OLDEST
from tests import sglang_copies
from tests.sglang_copies import SITE, WHEEL, copy_named, make_project, site_of, write_metadata

VERSION = next(iter(SITE.glob("sglang-*.dist-info"))).name.split("-")[1].removesuffix(".dist")
OTHER = OLDEST if VERSION == NEWEST else NEWEST

PROBE = """
import json, sys
from sglang_hisa.launch.cli import checks
from sglang_hisa.patches import contract, source
found = contract.unfit()
findings = [checks.check_sglang(), *checks.check_copies(), *checks.check_patches()]
try:
    root = str(contract.installed_root())
except source.SourceError:
    root = None
print(json.dumps({
    "root": root,
    "version": contract.installed_version(),
    "what": found and found.what,
    "reasons": found and found.reasons,
    "fix": found and found.fix,
    "findings": {f.check: [f.level, f.detail, f.fix] for f in findings},
    "imported": sorted({"sglang", "torch"} & set(sys.modules)),
}))
"""


@dataclass(frozen=True)
class Place:
    """Where a probe runs."""

    folder: Path
    """The current folder: empty unless a test puts something there."""
    python: Path

    def probe(self, *first: Path, code: str = PROBE, **env: str) -> dict[str, Any]:
        """What our code finds with the entries ``first`` on PYTHONPATH; nothing of SGLang may be imported."""
        inherited = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([*map(str, first), *([inherited] if inherited else [])])
        script = self.folder.parent / "bin" / "hisa.py"  # as a script's, its path has not the current folder
        script.parent.mkdir(exist_ok=True)
        script.write_text(code)
        done = subprocess.run(
            [str(self.python), str(script)],
            env={**os.environ, "PYTHONPATH": path, **env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["imported"] == []
        return found


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """This environment, with its wheel."""
    folder = tmp_path / "here" / "cwd"
    folder.mkdir(parents=True)
    return Place(folder, Path(sys.executable))


@pytest.fixture
def without(tmp_path: Path) -> Place:
    """An environment without any SGLang."""
    folder = tmp_path / "without" / "cwd"
    folder.mkdir(parents=True)
    return Place(folder, sglang_copies.python_without_sglang(tmp_path / "without" / "venv"))


def assert_found(found: dict[str, Any], root: Path, version: str = VERSION) -> None:
    """That copy is the one that is checked, and it fits the table."""
    assert (found["root"], found["version"]) == (str(root), version)
    assert found["reasons"] is None, found["reasons"]
    level, detail, _ = found["findings"]["sglang"]
    assert level == "ok" and str(root) in detail and version in detail


def test_the_wheel(here: Place) -> None:
    found = here.probe(here.folder / "no-such.zip")  # an entry that does not exist, as python311.zip
    assert_found(found, WHEEL)
    assert set(found["findings"]) == {"sglang", "patch table"}, "nothing to warn of"


@pytest.mark.parametrize("hook", [False, True], ids=["path", "hook"])
def test_an_editable_install(hook: bool, without: Place, tmp_path: Path) -> None:
    """By pip itself: the wheel's files are not there, and the source is outside of site-packages."""
    root = copy_named(tmp_path / "python" / ("sglang" if hook else "src/sglang"), VERSION)
    sglang_copies.install_editable(without.python, make_project(tmp_path / "python", VERSION, hook=hook))
    site = site_of(without.python)
    assert bool(list(site.glob("__editable___sglang_*_finder.py"))) is hook and not (site / "sglang").exists()
    found = without.probe()
    assert_found(found, root)
    assert set(found["findings"]) == {"sglang", "patch table"}, found["findings"]
    # The source moves on, and pip does not know: the source decides.
    (root / "_version.py").write_text(sglang_copies.VERSION_FILE.format("0.5.99"))
    found = without.probe()
    assert_found(found, root, "0.5.99")
    level, detail, fix = found["findings"]["sglang metadata"]
    assert level == "warn" and VERSION in detail and "0.5.99" in detail
    assert fix == f"pip install --no-deps -e {tmp_path / 'python'}"


def test_a_copy_before_the_wheel(here: Place, tmp_path: Path) -> None:
    root = copy_named(tmp_path / "first" / "sglang", VERSION)
    found = here.probe(tmp_path / "first")
    assert_found(found, root)
    level, detail, fix = found["findings"]["sglang copies"]
    assert level == "warn" and str(WHEEL) in detail and f"take {tmp_path / 'first'} off PYTHONPATH" in fix
    assert "sglang metadata" not in found["findings"], "the versions are the same"


def test_a_copy_of_another_version_decides(here: Place, tmp_path: Path) -> None:
    """Its name, not the metadata's; and whether it is served its source decides, whatever it is called."""
    root = copy_named(tmp_path / "first" / "sglang", OTHER)
    found = here.probe(tmp_path / "first")
    assert_found(found, root, OTHER)
    level, detail, fix = found["findings"]["sglang metadata"]
    assert level == "warn" and f"pip calls it {VERSION}" in detail and f"({root}) is {OTHER}" in detail
    assert fix == f"take {tmp_path / 'first'} off PYTHONPATH"


def test_a_copy_that_tells_no_version(here: Place, tmp_path: Path) -> None:
    """``sglang/version.py`` then asks the metadata, and so do we; whose it is, is said."""
    root = copy_named(tmp_path / "first" / "sglang")
    found = here.probe(tmp_path / "first")
    assert_found(found, root)
    level, detail, _ = found["findings"]["sglang metadata"]
    assert level == "warn" and "tells no version" in detail and "another copy" in detail


def test_a_checkout_in_the_current_folder(here: Place) -> None:
    """``python -m sglang.launch_server`` looks there first; the script ``hisa`` itself does not."""
    root = copy_named(here.folder / "sglang", VERSION)
    found = here.probe()
    assert_found(found, root)
    level, detail, fix = found["findings"]["sglang copies"]
    assert level == "warn" and str(WHEEL) in detail and f"start from another folder than {here.folder}" in fix


def test_the_folder_of_a_clone_is_passed_over(here: Place) -> None:
    """``git clone`` makes a folder ``sglang`` without ``__init__.py``: the wheel comes before it."""
    copy_named(here.folder / "sglang" / "python" / "sglang", "0.5.99")
    copy_named(here.folder / "python" / "sglang", "0.5.99")
    assert_found(here.probe(), WHEEL)


def test_a_safe_path_has_no_current_folder(here: Place) -> None:
    copy_named(here.folder / "sglang", "0.5.99")
    code = PROBE.replace("import json, sys", "import json, sys\nassert sys.flags.safe_path")
    assert_found(here.probe(code=code, PYTHONSAFEPATH="1"), WHEEL)


def test_a_symlinked_source(without: Place, tmp_path: Path) -> None:
    real = copy_named(tmp_path / "checkout" / "python" / "sglang", VERSION)
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sglang").symlink_to(real)
    found = without.probe(tmp_path / "first", real.parent)
    assert_found(found, tmp_path / "first" / "sglang")
    assert "sglang copies" not in found["findings"], "the same copy by two names"


def test_a_source_without_metadata(without: Place, tmp_path: Path) -> None:
    root = copy_named(tmp_path / "first" / "sglang", VERSION)
    assert_found(without.probe(tmp_path / "first"), root)
    (root / "_version.py").unlink()
    found = without.probe(tmp_path / "first")
    assert found["version"] is None and found["reasons"] is None
    assert "of an unknown version" in found["findings"]["sglang"][1]
    (root / "srt/managers/cache_controller.py").unlink()
    found = without.probe(tmp_path / "first")
    assert found["what"] == f"SGLang of an unknown version in {root} does not match the patch table"
    assert found["fix"] == (
        f"take {tmp_path / 'first'} off PYTHONPATH, then pip install --no-deps sglang=={NEWEST} && pip check"
    )


def test_metadata_without_a_source(without: Place, tmp_path: Path) -> None:
    write_metadata(tmp_path, VERSION)
    found = without.probe(tmp_path)
    assert found["version"] is None and "SGLang is not installed" in found["reasons"][0]
    assert found["fix"] == f"pip install sglang=={NEWEST}"


def test_no_sglang(without: Place) -> None:
    found = without.probe()
    assert (found["root"], found["version"]) == (None, None)
    assert "SGLang is not installed" in found["reasons"][0] and str(without.python) in found["reasons"][0]
    level, detail, fix = found["findings"]["sglang"]
    assert level == "FAIL" and "not installed" in detail and fix == f"pip install sglang=={NEWEST}"
    assert found["findings"]["patch table"][2] == "see sglang above"


def test_a_folder_that_is_no_package(without: Place) -> None:
    copy_named(without.folder / "sglang" / "python" / "sglang", VERSION)
    found = without.probe()
    assert str(without.folder / "sglang") in found["reasons"][0] and "__init__.py" in found["reasons"][0]
    assert found["fix"] == f"pip install sglang=={NEWEST}"


def test_a_folder_that_hides_an_editable_install(without: Place, tmp_path: Path) -> None:
    """Python's own finder comes before the hook, and takes a clone's folder in place of the package."""
    root = copy_named(tmp_path / "python" / "sglang", VERSION)
    sglang_copies.install_editable(without.python, make_project(tmp_path / "python", VERSION, hook=True))
    (tmp_path / "clone" / "sglang").mkdir(parents=True)
    found = Place(tmp_path / "clone", without.python).probe()
    assert "__init__.py" in found["reasons"][0] and found["version"] is None
    assert found["fix"] == f"start from another folder than {tmp_path / 'clone'}"
    assert_found(without.probe(), root)


@pytest.mark.parametrize("wheel", [True, False])
def test_an_archive(wheel: bool, here: Place, without: Place, tmp_path: Path) -> None:
    root = copy_named(tmp_path / "in" / "sglang", VERSION)
    archive = tmp_path / "sglang.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in root.rglob("*.py"):
            file.write(path, path.relative_to(root.parent))
    found = (here if wheel else without).probe(archive)
    assert f"{archive}/sglang/__init__.py, which is inside an archive" in found["reasons"][0]
    then = "" if wheel else f", then pip install sglang=={NEWEST}"
    assert found["fix"] == f"take {archive} off PYTHONPATH{then}"


def test_a_module_of_that_name(here: Place, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sglang.py").write_text("")
    found = here.probe(tmp_path / "first")
    assert "sglang.py, which is not a package" in found["reasons"][0]
    assert found["fix"] == f"take {tmp_path / 'first'} off PYTHONPATH"


def test_a_release_that_was_edited_is_installed_again(without: Place) -> None:
    """The command brings the release back: same version, so pip must be forced; requirements stay."""
    site = site_of(without.python)
    root = copy_named(site / "sglang", VERSION)
    write_metadata(site, VERSION)
    shutil.rmtree(root / "srt" / "mem_cache")
    found = without.probe()
    assert found["what"].startswith(f"SGLang {VERSION} in {root} does not match the patch table")
    assert found["fix"] == f"pip install --no-deps --force-reinstall sglang=={VERSION} && pip check"


def test_a_version_that_was_never_released_is_replaced_by_the_newest(without: Place) -> None:
    root = copy_named(site_of(without.python) / "sglang", "0.5.24.dev3")
    write_metadata(site_of(without.python), "0.5.24.dev3")
    (root / "srt/managers/cache_controller.py").unlink()
    found = without.probe()
    assert found["what"] == f"SGLang 0.5.24.dev3 in {root} does not match the patch table"
    assert found["fix"] == f"pip install --no-deps sglang=={NEWEST} && pip check"


def test_an_imported_sglang_is_the_one(without: Place, tmp_path: Path) -> None:
    """In a server, what is imported is the truth, even where the path has changed since."""
    for name in ("first", "second"):
        (copy_named(tmp_path / name / "sglang", VERSION) / "__init__.py").write_text("")
    code = "import sglang, sys\nsys.path.remove({!r})\n".format(str(tmp_path / "first")) + PROBE
    code = code.replace('"imported": sorted({"sglang", "torch"}', '"imported": sorted({"torch"}')
    found = without.probe(tmp_path / "first", tmp_path / "second", code=code)
    assert_found(found, tmp_path / "first" / "sglang")
