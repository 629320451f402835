"""A run that was measured is never replaced by another one, nor by a look at it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.ab import report as ab_report
from sglang_hisa.launch.cli import main
from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.load import report as load_report
from sglang_hisa.launch.load.record import LoadRecord
from tests.launch.ab import records as ab_records
from tests.launch.load import records as load_records

EMPTY: dict[str, Any] = {"complete": False, "measurements": [], "points": [], "answers": []}
DEAD = "http://127.0.0.1:9"


def keep(folder: Path, name: str = "report.json", **more: Any) -> bytes:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({**EMPTY, **more}))
    return (folder / name).read_bytes()


def usage(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err


COMMANDS = {
    "ab": (["ab", "no-model", "--quality", "0", "--cpu"], "report.json"),
    "live": (["ab", "no-model", "--live", "--cpu"], "report.json"),
    "load": (["load", DEAD], "report.json"),
    "eval": (["eval", DEAD, "--contexts", "256"], "quality.json"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"complete": True}, "a finished run"),
        ({"measurements": [1, 2], "seconds": 2}, "a partial run"),
        ({"points": [1], "answers": [], "seconds": 7}, "a partial run"),
    ],
)
def test_out_with_a_run_in_it_is_refused(
    command: str,
    held: dict[str, Any],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, name = COMMANDS[command]
    monkeypatch.setattr("sglang_hisa.launch.live.router.installed", lambda: True)
    before = keep(tmp_path, name, **held)
    said = usage(capsys, *given, "--out", str(tmp_path))
    assert f"holds {words}" in said and "--force" in said
    assert (tmp_path / name).read_bytes() == before


def test_the_default_folder_is_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = keep(tmp_path / "hisa-eval", "quality.json", complete=True)
    second = keep(tmp_path / "hisa-eval-2", "quality.json", answers=[1])
    assert main(["eval", DEAD, "--contexts", "256", "--samples", "1"]) == 2
    assert "hisa-eval holds a finished run; this run goes to hisa-eval-3" in capsys.readouterr().err
    assert (tmp_path / "hisa-eval-3" / "quality.json").is_file()
    assert (tmp_path / "hisa-eval" / "quality.json").read_bytes() == first
    assert (tmp_path / "hisa-eval-2" / "quality.json").read_bytes() == second


def test_force_renames_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = keep(tmp_path, "quality.json", complete=True)
    words = ["eval", DEAD, "--contexts", "256", "--samples", "1", "--out", str(tmp_path)]
    assert main([*words, "--force"]) == 2
    assert (tmp_path / "quality.json.1").read_bytes() == before
    assert "is now quality.json.1" in capsys.readouterr().err
    assert main(words) == 2, "nothing was measured: nothing to lose"
    assert files.held(tmp_path, "nothing.json") is None
    (tmp_path / "broken.json").write_text("{")
    assert files.held(tmp_path, "broken.json") == "a record that cannot be read"


def test_another_limit_does_not_rewrite_a_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, other = tmp_path / "kept", tmp_path / "other"
    load_report.write(read(LoadRecord, load_records.make({1: [load_records.answer(1.5)] * 10})), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["load", "--from", str(folder), "--slo", "ttft=1"]) == 0
    shown = capsys.readouterr()
    assert "No knee: at no measured load" in " ".join(shown.out.split())
    assert "nothing was written" in shown.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "--out" in usage(capsys, "load", "--from", str(folder), "--slo", "ttft=1", "--out", str(folder))
    assert main(["load", "--from", str(folder), "--slo", "ttft=1", "--out", str(other)]) == 0
    assert load_report.load(other).slo == {"ttft": 1.0} and load_report.load(folder).slo["ttft"] == 2.0


def test_a_look_at_one_run_does_not_replace_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        ab_report.write(ab_records.typed(ab_records.make({"stock": 1, "paper": 1.5})), tmp_path / name)
    before = (tmp_path / "two" / "report.json").read_bytes()
    said = usage(capsys, "ab", "--from", str(tmp_path / "one"), "--out", str(tmp_path / "two"))
    assert "holds a finished run" in said and (tmp_path / "two" / "report.json").read_bytes() == before
    assert main(["ab", "--from", str(tmp_path / "one")]) == 0


def test_rounds_without_a_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for rounds in ("0", "-1"):
        said = usage(capsys, "ab", "no-model", "--rounds", rounds, "--out", str(tmp_path))
        assert f"{rounds} rounds measure nothing; a verdict needs 3 or more" in said
    assert not list(tmp_path.iterdir())
