"""``hisa serve``: what it runs, and what it refuses before it runs anything."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.config import ENV_DUMMY, PRESETS, from_mapping, parse
from sglang_hisa.launch.cli import main
from sglang_hisa.launch.cli.plugins import Plugin
from sglang_hisa.launch.common import server
from sglang_hisa.patches import contract

pytestmark = pytest.mark.usefixtures("clean_env", "visible_plugins")


class Executed(Exception):
    """Stands for the process that became SGLang."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.argv, self.env = argv, env


@pytest.fixture(autouse=True)
def no_exec(monkeypatch: pytest.MonkeyPatch) -> None:
    def execvpe(file: str, argv: list[str], env: dict[str, str]) -> None:
        assert file == argv[0]
        raise Executed(argv, env)

    monkeypatch.setattr(os, "execvpe", execvpe)


def serve(*words: str) -> Executed:
    """The process that ``hisa serve WORDS`` becomes."""
    with pytest.raises(Executed) as caught:
        main(["serve", *words])
    return caught.value


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and message of a ``hisa serve`` that runs nothing."""
    try:
        code: Any = main(["serve", *words])
    except SystemExit as stop:
        code = stop.code
    if isinstance(code, str):  # the interpreter prints it and exits with 1
        return 1, code
    return code, capsys.readouterr().err


def test_default_preset_and_flags() -> None:
    done = serve("org/model", "--tp", "8", "--set-nothing", "--port=30001")
    assert done.argv == [
        *(sys.executable, "-m", "sglang.launch_server", "--model-path", "org/model"),
        *("--tp", "8", "--set-nothing", "--port=30001"),
    ]
    assert parse(done.env["SGLANG_HISA"]) == from_mapping({})
    assert done.env["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets(preset: str) -> None:
    assert serve("--preset", preset, "m").env["SGLANG_HISA"] == preset


def test_the_command_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """As a line that a shell would run."""
    done = serve("--set", "block=128", "org/a model", "--tp", "8")
    assignment, *argv = shlex.split(capsys.readouterr().err.splitlines()[-1].removeprefix("hisa: "))
    assert argv == done.argv
    assert assignment == f"SGLANG_HISA={done.env['SGLANG_HISA']}"


def test_cpu(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["DeepseekV32ForCausalLM"]}')
    model = str(tmp_path)
    done = serve("--cpu", model, "--port", "30123")
    assert done.argv[:3] == [sys.executable, "-m", "sglang.launch_server"]
    assert done.argv[3:-2] == server.cpu_flags(model) and done.argv[-2:] == ["--port", "30123"]
    assert done.env == server.cpu_env(os.environ, "balanced")
    stock = serve("--cpu", "--stock", model)
    assert stock.env == server.cpu_env(os.environ, None)


@pytest.mark.parametrize("words", [(), ("--stock",)])
def test_made_up_weights_have_index_scores_that_differ(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """In either arm, or an A/B of two such servers would compare two models."""
    assert serve(*words, "m", "--load-format", "dummy").env[ENV_DUMMY] == "spread"
    assert "SGLANG_HISA_DUMMY=spread" in shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert ENV_DUMMY not in serve(*words, "m", "--load-format", "auto").env


def test_own_options_may_follow_the_model() -> None:
    done = serve("m", "--tp", "2", "--preset", "paper", "--set", "sink_tokens=192", "--log-level", "info")
    assert done.argv[-4:] == ["--tp", "2", "--log-level", "info"]
    assert parse(done.env["SGLANG_HISA"]) == from_mapping({"preset": "paper", "sink_tokens": 192})


def test_settings_keep_their_types() -> None:
    pairs = ("stock_decode_graphs=false", "refine=triton", "prefill_fraction=0.5", "block=256")
    done = serve(*(word for pair in pairs for word in ("--set", pair)), "m")
    assert json.loads(done.env["SGLANG_HISA"]) == {
        "preset": "balanced",
        "stock_decode_graphs": False,
        "refine": "triton",
        "prefill_fraction": 0.5,
        "block": 256,
    }


def test_settings_build_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_HISA", '{"preset": "paper", "local_tokens": 256}')
    done = serve("--set", "block=64", "m")
    expected = from_mapping({"preset": "paper", "local_tokens": 256, "block": 64})
    assert parse(done.env["SGLANG_HISA"]) == expected


def test_preset_replaces_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_HISA", "not readable either")
    assert parse(serve("--preset", "paper", "m").env["SGLANG_HISA"]) == from_mapping({"preset": "paper"})


def test_stock_removes_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLANG_HISA", "paper")
    done = serve("--stock", "m", "--tp", "8")
    assert "SGLANG_HISA" not in done.env and done.argv[-2:] == ["--tp", "8"]


def test_stock_serves_any_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "installed_root", lambda: pytest.fail("looked at SGLang"))
    assert "SGLANG_HISA" not in serve("--stock", "m").env


BAD = [
    (["--set", "decode_token=4096"], ['"decode_token"', "4096", "did you mean 'decode_tokens'?"]),
    (["--set", "block=two"], ['"block"', '"two"', "64, 128, 256"]),
    (["--set", "block=96"], ['"block"', "96", "64, 128, 256", "64-token page"]),
    (["--set", "stock_decode_graphs=1"], ['"stock_decode_graphs"', "1", "true or false"]),
    (["--set", "decode_tokens=8192.5"], ['"decode_tokens"', "8192.5", "index_topk"]),
    (["--set", "prefill_fraction=25"], ['"prefill_fraction"', "25", "0 to 1"]),
    (["--set", "refine=fast"], ['"refine"', '"fast"', "auto, deepgemm, triton"]),
    (["--set", "workspace_mb=1"], ['"workspace_mb"', "1", "16 or more"]),
    (["--set", "sink_tokens=-1"], ['"sink_tokens"', "-1", "0 or more"]),
    (["--preset", "fast"], ['"preset"', '"fast"', "balanced, decode-only, paper, paper-4to1"]),
    (["--set", "block"], ["'block'", "KEY=VALUE"]),
    (["--set", "preset=paper"], ["'preset=paper'", "--preset"]),
]


@pytest.mark.parametrize(("words", "expected"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_settings(words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(capsys, *words, "m")
    assert code == 1 and "refusing to start" in message
    assert all(word in message for word in expected), message


def test_every_bad_setting_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(capsys, "--set", "block=96", "--set", "refine=fast", "--set", "typo=1", "m")
    assert code == 1
    assert all(key in message for key in ('"block"', '"refine"', '"typo"'))


@pytest.mark.parametrize("text", ["", '{"preset": "paper"', '["paper"]', '"paper"', "papr", "{}x"])
def test_bad_environment(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGLANG_HISA", text)
    code, message = refused(capsys, "m")
    assert code == 1 and "SGLANG_HISA" in message
    assert text in message and ("paper-4to1" in message or "JSON object" in message)


def test_stock_with_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--preset", "paper"], ["--set", "block=64"]):
        code, message = refused(capsys, "--stock", *words, "m")
        assert code == 2 and "--stock" in message and "--preset" in message


def test_flags_before_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(capsys, "--tp", "8", "m")
    assert code == 2 and "MODEL comes before" in message and "--tp" in message


def test_an_sglang_that_changed(sglang_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused with what changed, and served with the key that the message names."""
    path = sglang_copy / "srt/layers/attention/dsa/dsa_indexer.py"
    before = "max_seq_len = block_tables.shape[1] * page_size"
    path.write_text(path.read_text().replace(before, "max_seq_len = 1"))
    code, message = refused(capsys, "m", "--set", "audit=0.5")
    assert code == 1 and "Indexer._get_topk_paged" in message and "`max_seq_len = 1`" in message
    setting = message.partition("export SGLANG_HISA='")[2].partition("'\n")[0]
    assert parse(setting) == from_mapping({"audit": 0.5, "unverified_source": True})
    assert "unverified_source" in serve("--set", "unverified_source=true", "m").env["SGLANG_HISA"]


def test_ray_is_refused_with_hisa_and_left_alone_without(capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused(capsys, "m", "--tp", "8", "--use-ray")
    assert code == 1 and "--use-ray" in message and "\nFix: drop --use-ray\n" in message
    assert serve("--stock", "m", "--use-ray").argv[-1] == "--use-ray"


def test_plugin_that_sglang_would_not_load(
    visible_plugins: list[Plugin], capsys: pytest.CaptureFixture[str]
) -> None:
    visible_plugins.clear()
    code, message = refused(capsys, "m")
    assert code == 1 and "sglang.srt.plugins" in message and "pip install" in message


def test_whitelist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SGLANG_PLUGINS", "turbo")
    code, message = refused(capsys, "m")
    assert code == 1 and "SGLANG_PLUGINS=turbo" in message
