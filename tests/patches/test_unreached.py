"""Ways to run a model that load no plugins: the list is that of the installed SGLang's source."""

from __future__ import annotations

import ast
from pathlib import Path

from sglang_hisa.patches import contract
from sglang_hisa.patches.unreached import UNREACHED, unreached

BUILT = {"ModelRunner", "TpModelWorker", "Scheduler"}
"""Whoever makes one of these runs a model in its own process."""
INSIDE = ("srt/managers/tp_worker.py", "srt/speculative/")
"""What a scheduler makes for itself, in a process that has loaded the plugins already."""
PROCESS = "srt/managers/scheduler.py"


def calls(tree: ast.AST) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def modules(root: Path) -> dict[str, ast.Module]:
    """SGLang's modules for language models, by path, as far as they name what could run one."""
    found = {}
    for path in root.rglob("*.py"):
        name = str(path.relative_to(root))
        if name.startswith(("multimodal_gen/", "test/")):
            continue
        text = path.read_text(encoding="utf-8")
        if any(word in text for word in (*BUILT, "one_batch")):
            found[name] = ast.parse(text)
    return found


def test_the_list_is_that_of_sglangs_source() -> None:
    root = contract.installed_root()
    trees = modules(root)
    makers = {name for name, tree in trees.items() if BUILT & calls(tree) and not name.startswith(INSIDE)}
    # Kernels have tile schedulers of that name; the simulator's run no model.
    makers -= {name for name in makers if name.startswith(("kernels/", "srt/debug_utils/"))}
    assert PROCESS in makers
    silent = {name for name in makers if "load_plugins" not in calls(trees[name])}
    listed = {row.module for row in unreached(root)}
    aliases = {name for name in listed - silent if (root / name).is_file()}
    assert silent | aliases == listed and silent, (silent, listed)
    for name in aliases:  # another name of a listed module, and nothing else
        source = (root / name).read_text()
        assert "from sglang.benchmark.one_batch import cli_main" in source and "load_plugins" not in source


def test_every_other_name_of_a_listed_module_is_listed() -> None:
    root = contract.installed_root()
    listed = {row.module for row in unreached(root)}
    modules_of = {f"sglang.{name.removesuffix('.py').replace('/', '.')}" for name in listed}
    found = set()
    for name, tree in modules(root).items():
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if imported & modules_of and not name.startswith("srt/ray/"):
            found.add(name)
    assert found <= listed, found - listed


def test_the_process_that_servers_and_engines_start_loads_them() -> None:
    tree = ast.parse((contract.installed_root() / PROCESS).read_text())
    (start,) = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name == "run_scheduler_process"
    ]
    assert "load_plugins" in calls(start) and "Scheduler" in calls(start)


def test_what_is_named_instead_exists_and_loads_plugins() -> None:
    root = contract.installed_root()
    for row in unreached(root):
        words = row.instead.split()
        if words[:1] == ["python"]:
            module = words[2].removeprefix("sglang.").replace(".", "/")
            text = (root / f"{module}.py").read_text()
            assert "launch_server" in text or "one_batch_server import" in text
    assert len({row.typed for row in UNREACHED}) == len(UNREACHED)
