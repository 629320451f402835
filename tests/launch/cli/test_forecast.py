"""``hisa doctor MODEL``: what a model, settings and flags would do, before anything loads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sglang_hisa.config import Config, from_mapping
from sglang_hisa.launch.cli import checks, forecast, main
from sglang_hisa.launch.common import models
from sglang_hisa.patches.forecast import index_layers
from tests.launch.cli.conftest import H100

pytestmark = pytest.mark.usefixtures("clean_env", "visible_plugins")


@pytest.fixture(scope="module")
def glm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four layers of GLM-5.2, in which one layer reuses the choice of the layer before."""
    folder = tmp_path_factory.mktemp("model") / "glm"
    folder.mkdir()
    config = {
        "architectures": ["GlmMoeDsaForCausalLM"],
        "num_hidden_layers": 4,
        "index_topk": 2048,
        "index_topk_freq": 2,
        "max_position_embeddings": 202752,
        "num_nextn_predict_layers": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def text_of(made: forecast.Forecast, config: Config, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    forecast.show(made, config, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize("width", [80, 120])
def test_budgets_layers_and_memory(glm: str, width: int) -> None:
    config = from_mapping({"prefill_tokens": 16384})
    made = forecast.make(glm, config, ["--max-total-tokens", "6400000"])
    # Layers 0, 1 and 3 choose; 132 bytes a page of 64 tokens in each of them.
    assert (made.layers, made.index_layers, made.declined) == (4, 3, ())
    assert made.summary_bytes == 3 * 132 * 100000
    by_context = {row.context: (row.decode, row.prefill) for row in made.budgets}
    assert by_context[8192] == (8192, 8192)
    assert by_context[65536] == (32768, 16384)
    assert by_context[131072] == (32768, 32768)
    assert by_context[202752] == (32768, 50688) and max(by_context) == 202752
    text = text_of(made, config, width)
    assert "balanced (changed: prefill_tokens)" in text and "3 of 4 layers choose 2,048 tokens" in text
    assert "32,768 (16%)" in text and "0.04 GiB for your pool" in text


def test_drafts_and_context(glm: str) -> None:
    made = forecast.make(glm, Config(), ["--speculative-algorithm", "EAGLE", "--context-length", "40000"])
    assert made.index_layers == 4 and made.declined == ()
    assert [row.context for row in made.budgets] == [8192, 16384, 32768, 40000]


def test_what_is_declined(
    glm: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--page-size", "32", "--enable-hisparse", "--decode-context-parallel-size=2"]
    made = forecast.make(glm, from_mapping({"decode_tokens": 1024}), flags)
    text = " ".join(made.declined)
    assert len(made.declined) == 4 and "page_size=32" in text and "dcp_size=2" in text
    assert '"decode_tokens": 1024 is smaller than the model\'s index_topk 2048' in text
    assert all("; fix: " in reason for reason in made.declined)
    monkeypatch.setattr(checks, "find_gpu", lambda: H100)
    monkeypatch.setattr(checks, "diagnose", lambda gpu: [])
    monkeypatch.setattr(checks, "patch_rows", lambda: [])
    assert main(["doctor", "--json", glm, *flags]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"] and len(told["model"]["declined"]) == 3
    assert main(["doctor", "--json", glm, "--tp", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["index_layers"] == 3


def test_models_that_are_not_served(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (reason,) = forecast.make(str(tmp_path), Config(), []).declined
    assert "LlamaForCausalLM" in reason
    assert "there is no folder" in forecast.make(str(tmp_path / "none"), Config(), []).declined[0]
    assert "cannot be read" in forecast.make("org/model", Config(), []).unknown


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 6),
        ({"index_topk_freq": 2}, 4),
        ({"index_topk_freq": 3, "index_skip_topk_offset": 2}, 3),
        ({"index_topk_pattern": "FSFSSF"}, 3),
        ({"indexer_types": ["full", "shared", "full", "shared", "shared", "full"]}, 3),
        ({"cli_factor": 4}, 2),
    ],
)
def test_layers_that_choose(given: dict[str, Any], expected: int) -> None:
    config = {"num_hidden_layers": 6, **given}
    assert index_layers(config) == expected
    if given.keys() <= {"index_topk_freq"}:
        assert expected == 6 - len(models.shared_layers(config))
