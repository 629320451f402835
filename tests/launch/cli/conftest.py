"""A machine on which ``hisa doctor`` finds nothing to fix, for tests to break in one place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_hisa.launch.cli import checks, cuda, plugins, preflight
from sglang_hisa.launch.common import auth, model_config
from sglang_hisa.patches import contract
from tests.sglang_copies import copy_named

H100 = checks.Gpu("NVIDIA H100 80GB HBM3", (9, 0), 1)


@pytest.fixture(autouse=True)
def ready_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One GPU, every package, no network; and no API key left over from another test."""
    monkeypatch.setattr(cuda, "count", lambda: 1)
    monkeypatch.setattr(preflight, "has", lambda module: True)
    monkeypatch.setattr(model_config, "_download", lambda model: None)
    monkeypatch.delenv("SGLANG_HISA_API_KEY", raising=False)
    yield
    auth.use(None)


@pytest.fixture
def visible_plugins(monkeypatch: pytest.MonkeyPatch) -> list[plugins.Plugin]:
    """The entry points that SGLang would find; a test may change the list."""
    found = [plugins.Plugin(name, value, "sglang-hisa") for name, value in plugins.OURS.items()]
    monkeypatch.setattr(plugins, "installed", lambda: found)
    return found


@pytest.fixture
def clean_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of the variables that the commands read."""
    for name in ("SGLANG_HISA", "SGLANG_HISA_CPU", "SGLANG_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sglang_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those files of the installed SGLang that the patch table names, as if they were the installed ones."""
    root = copy_named(tmp_path / "sglang", contract.installed_version())
    monkeypatch.setattr(contract, "installed_root", lambda: root)
    return root
