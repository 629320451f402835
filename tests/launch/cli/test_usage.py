"""What a user mistypes is told in one line, before anything runs, and never becomes the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.ab.runner import Runner
from sglang_hisa.launch.cli import main
from tests.launch.ab import records

pytestmark = pytest.mark.usefixtures("clean_env", "visible_plugins")


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Runner) -> int:
        raise AssertionError(f"ran with {self.model} {self.flags}")

    monkeypatch.setattr(Runner, "run", run)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a usage error (exit code 2): a line below the usage."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2, stop.value.code
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("command", ["ab", "eval"])
def test_a_mistyped_option_is_not_the_model(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown option --round; did you mean" in refused(capsys, "ab", "--round", "2", "MODEL")
    found = refused(capsys, command, "--sampels", "2", "MODEL")
    assert "unknown option --sampels" in found, "2 became the model"
    assert "flags: MODEL --tp" in refused(capsys, command, "--tp", "2", "MODEL")


def test_a_mistyped_option_behind_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean --rounds?" in refused(capsys, "ab", "MODEL", "--round", "2", "--tp", "8")
    assert "did you mean --preset?" in refused(capsys, "serve", "MODEL", "--presett", "paper")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["ab", "--share", "0.1", "M"], "--share"),
        (["ab", "--port=30000", "M"], "--port"),
        (["ab", "--live", "--rounds", "3", "M"], "--rounds"),
        (["load", "--turns", "2", "http://127.0.0.1:1"], "--turns"),
        (["load", "--groups", "2", "http://127.0.0.1:1"], "--groups"),
        (["load", "--workload", "shared-prefix", "--turns", "2", "http://127.0.0.1:1"], "--turns"),
        (["load", "--seconds", "9", "http://127.0.0.1:1"], "--seconds"),
        (["load", "--rate", "1", "--requests", "9", "--seconds", "9", "http://127.0.0.1:1"], "--seconds"),
        (["eval", "--together", "http://127.0.0.1:1"], "--together"),
        (["eval", "http://127.0.0.1:1", "--tp", "8"], "--tp"),
    ],
)
def test_options_without_effect(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = refused(capsys, *words)
    assert f"{named}: no effect" in found


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["load", "--slo", "ttft", "http://127.0.0.1:1"], "'ttft': a number of seconds is missing"),
        (["load", "--concurrency", "a", "http://127.0.0.1:1"], "--concurrency 'a'"),
        (["load", "--input-tokens", "lots", "http://127.0.0.1:1"], "'lots' is not a number of tokens"),
        (["ab", "--cells", "foo", "M"], "'foo' is not a number of tokens"),
        (["ab", "--cells", "8k:x", "M"], "8k:x"),
        (["eval", "--contexts", "4x", "M"], "'4x' is not a number of tokens"),
    ],
)
def test_values_that_cannot_be_read(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert named in refused(capsys, *words)


@pytest.mark.parametrize("command", [["ab"], ["ab", "--live"], ["load"], ["eval"]])
@pytest.mark.parametrize("text", [None, "", "[1]", '{"kind": 1', '{"kind": "x", "schema_version": 1}'])
def test_a_broken_record(
    command: list[str], text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "quality.json" if command == ["eval"] else "report.json"
    if text is not None:
        (tmp_path / name).write_text(text)
    found = refused(capsys, *command, "--from", str(tmp_path))
    assert "--from" in found and name in found


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["ab"], "hisa-ab"),
        (["ab", "--live"], "hisa-ab-live"),
        (["load"], "hisa-load"),
        (["eval"], "hisa-eval"),
    ],
)
def test_a_record_that_lacks_its_parts(
    command: list[str], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "quality.json" if command == ["eval"] else "report.json"
    (tmp_path / name).write_text(json.dumps({"kind": kind, "schema_version": 1, "plan": {}}))
    assert "it lacks " in refused(capsys, *command, "--from", str(tmp_path))


def test_a_folder_that_takes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record: dict[str, Any] = records.make({"stock": 1.0, "paper": 1.5})
    (tmp_path / "report.json").write_text(json.dumps(record))
    taken = tmp_path / "file"
    taken.write_text("")
    found = refused(capsys, "ab", "--from", str(tmp_path), "--out", str(taken))
    assert f"--out {taken}: nothing can be written there" in found
    assert taken.read_text() == ""
    words = ("--cpu", "--quality", "0", "--out", str(taken / "below"), "M")
    assert "nothing can be written there" in refused(capsys, "ab", *words)
