"""The commit of a record: a hash, whatever tags there are, or what an exported tree says of itself."""

import re
import subprocess
from pathlib import Path

import pytest

from sglang_hisa.launch.common import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, with an annotated tag, in which the module is said to be."""
    module = tmp_path / "launch" / "common" / "provenance.py"
    module.parent.mkdir(parents=True)
    module.write_text("")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "-am", "one", "v1"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(module))
    return tmp_path


def test_a_tagged_commit_is_told_by_its_hash(checkout: Path) -> None:
    clean = provenance.commit()
    assert re.fullmatch("[0-9a-f]{12}", clean or "")
    (checkout / "launch" / "common" / "provenance.py").write_text("changed")
    assert provenance.commit() == f"{clean}-dirty"


def test_an_exported_tree_has_a_file(checkout: Path) -> None:
    (checkout / "COMMIT").write_text("abc123\n")
    assert provenance.commit() == "abc123"
