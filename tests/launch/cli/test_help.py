"""Help texts name what there is."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from sglang_hisa import __version__
from sglang_hisa.config import PRESETS, Config
from sglang_hisa.launch.bench import kernels
from sglang_hisa.launch.cli import COMMANDS, checks, main, presets
from tests.launch.cli.conftest import H100


def output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What ``hisa WORDS`` prints on its way to exit code 0."""
    try:
        assert main(list(words)) == 0
    except SystemExit as stop:
        assert stop.code == 0
    return capsys.readouterr().out


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys)
    assert text == output(capsys, "--help")
    assert all(preset in text for preset in PRESETS)
    assert all(f"hisa {word}" in text for word in ("doctor", "serve", "demo"))
    assert "SGLANG_HISA=balanced python -m sglang.launch_server" in text
    assert all(f"\n    {command.__name__.rpartition('.')[2]} " in text for command in COMMANDS)


def test_serve_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "serve", "--help")
    assert all(f"  {field.name} " in text for field in dataclasses.fields(Config) if field.name != "preset")


def test_presets_as_in_the_design(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    lines = {}
    for line in output(capsys, "presets").splitlines():
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if len(cells) == 5:
            lines[cells[0]] = cells[1:]
    assert lines["balanced *"] == [
        "64",
        "max(32768, L/16)",
        "max(32768, L/4), 1/4 of the heads",
        "stock DSA for 1024 tokens",
    ]
    assert lines["decode-only"] == ["64", "max(32768, L/16)", "stock DSA", "stock DSA"]
    assert lines["paper"] == ["128", "8192", "8192", "8192"]
    assert lines["paper-4to1"][0] == "128" and "L/4" in lines["paper-4to1"][1]


def test_presets_tell_every_setting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for columns in ("80", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        lines = output(capsys, "presets").splitlines()
        assert max(map(len, lines)) <= int(columns)
        for field in dataclasses.fields(Config):
            (line,) = [line for line in lines if re.match(rf"  {field.name} ", line)]
            default = field.default if isinstance(field.default, str) else json.dumps(field.default)
            assert line.split()[1] == default and len(line.split()) > 3, "a meaning stands beside it"
    text = " ".join(output(capsys, "presets").split())
    assert "rows are scored in chunks that fit." in text and ":meth:" not in text
    assert presets.meanings().keys() == {field.name for field in dataclasses.fields(Config)}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "--version").strip() == f"sglang-hisa {__version__}"


def test_bench_passes_its_flags_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(kernels, "main", lambda argv: given.append(argv) or 0)
    assert main(["bench", "kernels", "--help"]) == 0 and given == [["--help"]]
    monkeypatch.setattr(checks, "find_gpu", lambda: H100)
    assert main(["bench", "kernels", "--batches", "1", "16", "--repeats", "3"]) == 0
    assert given[-1] == ["--batches", "1", "16", "--repeats", "3"]
    monkeypatch.setattr(checks, "find_gpu", lambda: None)
    assert main(["bench", "kernels"]) == 1 and "no CUDA GPU" in capsys.readouterr().err
    assert len(given) == 2


@pytest.mark.parametrize("words", [["doctor", "--nope"], ["presets", "extra"], ["unknown"]])
def test_unknown_arguments(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and words[-1] in capsys.readouterr().err
