"""Imports go launch -> patches -> sglang_hisa -> kernels and never back; only patches/ imports SGLang."""

import ast
from collections.abc import Iterator
from pathlib import Path

from sglang_hisa.launch.pages.tables import ROOT

LAYERS = ("kernels", "sglang_hisa", "patches", "launch")
"""Each may import itself and what stands before it."""
SHARED = ("sglang_hisa.PAGE", "sglang_hisa.SHARE_ONE", "sglang_hisa.__version__")
"""Constants of the package itself, which is loaded before any of its folders and imports none of them."""
ALONE = Path("launch/common/generator.py")
"""Run in a process of its own, by its path; nothing imports it."""


def layer(module: str) -> str:
    """The folder of a module of ours."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "sglang_hisa"


def imported(source: str) -> Iterator[str]:
    """Every module that a file imports, also within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def wrong(folder: str, source: str) -> list[str]:
    """The imports that a file of ``folder`` must not have."""
    allowed = LAYERS[: LAYERS.index(folder) + 1]
    found = []
    for module in imported(source):
        package = module.split(".")[0]
        upwards = package == "sglang_hisa" and module not in SHARED and layer(module) not in allowed
        foreign = package == "sglang" and folder != "patches"
        if upwards or foreign:
            found.append(module)
    return found


def test_a_wrong_import_is_found() -> None:
    assert wrong("kernels", "from sglang_hisa.config import PAGE") == ["sglang_hisa.config.PAGE"]
    assert wrong("sglang_hisa", "def f():\n    from sglang_hisa.patches import pool") == [
        "sglang_hisa.patches.pool"
    ]
    assert wrong("launch", "import sglang.srt.utils") == ["sglang.srt.utils"]
    assert wrong("patches", "import sglang.srt.utils\nfrom sglang_hisa import kernels") == []
    assert wrong("kernels", "from sglang_hisa import PAGE") == []
    assert wrong("kernels", "from sglang_hisa import config") == ["sglang_hisa.config"]


def test_the_package_itself_imports_none_of_its_folders() -> None:
    assert list(imported((ROOT / "sglang_hisa" / "__init__.py").read_text())) == ["pathlib.Path"]


def test_the_load_generators_process_has_sglangs_benchmark_and_nothing_of_ours() -> None:
    found = list(imported((ROOT / ALONE).read_text()))
    assert [module for module in found if module.startswith("sglang")] == ["sglang.benchmark.serving"]


def test_imports_go_one_way() -> None:
    files = [path for folder in LAYERS for path in (ROOT / folder).rglob("*.py") if path != ROOT / ALONE]
    assert len(files) > 100
    found = {
        str(path.relative_to(ROOT)): modules
        for path in files
        if (modules := wrong(path.relative_to(ROOT).parts[0], Path(path).read_text()))
    }
    assert found == {}
