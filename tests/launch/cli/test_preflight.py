"""What would fail after minutes is told at once, in one message with its fix."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from sglang_hisa.launch.cli import cuda, main, preflight
from sglang_hisa.launch.common import models
from sglang_hisa.launch.common.server import free_port

pytestmark = pytest.mark.usefixtures("clean_env", "visible_plugins")


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that is refused with exit code 1."""
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    message = str(stop.value.code)
    assert message.startswith(("hisa: ", "sglang-hisa ")), stop.value.code
    assert not capsys.readouterr().out
    return message


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(models.make_tiny(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.mark.parametrize("words", [["serve"], ["ab"], ["ab", "--live", "--share", "0.5"], ["eval"]])
def test_no_gpu(
    words: list[str], tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "count", lambda: 0)
    message = told(capsys, *words, tiny, "--max-total-tokens", "9999")
    assert "no GPU" in message and "fix: " in message and len(message.splitlines()) <= 3


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert isinstance(cuda.count(), int)


@pytest.mark.parametrize("words", [["serve"], ["ab"], ["eval"], ["serve", "--cpu"]])
def test_a_model_without_dsa(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    message = told(capsys, *words, str(tmp_path))
    assert "LlamaForCausalLM is not a DeepSeek-Sparse-Attention model" in message
    assert "hisa serve --stock" in message


def test_deepseek_v3_has_no_indexer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["DeepseekV3ForCausalLM"]}))
    assert "index_topk" in told(capsys, "serve", str(tmp_path))


def test_overrides_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["DeepseekV3ForCausalLM"]}))
    flags = ["--json-model-override-args", '{"index_topk": 2048}']
    assert preflight._model(str(tmp_path), flags) == []
    assert preflight._model(str(tmp_path), []) != []


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no folder" in told(capsys, "serve", str(tmp_path / "nothing"))
    assert "no config.json" in told(capsys, "serve", str(tmp_path))


def test_a_model_that_cannot_be_read_from_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight._model("org/model", []) == []
    assert "not checked yet" in capsys.readouterr().err


def test_a_missing_package(
    tiny: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "has", lambda name: name != "torchvision")
    message = told(capsys, "serve", tiny)
    assert "torchvision" in message and "pip install --no-deps " in message
    monkeypatch.setattr(preflight, "has", lambda name: name != "scipy")
    assert "pip install scipy" in told(capsys, "ab", tiny)


def test_a_load_generator_that_would_not_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "has", lambda name: name != "torchvision")
    with pytest.raises(SystemExit) as stop:
        preflight.check_generator()
    assert "torchvision" in str(stop.value) and "pip install --no-deps " in str(stop.value)


def test_no_matplotlib_is_told_before_the_measurement(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "has", lambda name: name != "matplotlib")
    preflight.check_reports()
    assert "pip install matplotlib" in capsys.readouterr().err


def test_a_taken_port(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        message = told(capsys, "serve", "--cpu", tiny, "--port", str(port))
    assert f"port {port}" in message and f"--port {port + 1}" in message
