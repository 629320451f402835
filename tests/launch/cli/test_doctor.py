"""``hisa doctor``: what it reports, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.cli import checks, main
from sglang_hisa.launch.cli.plugins import Plugin
from sglang_hisa.patches import contract, source
from sglang_hisa.patches.table import PATCHES, ROWS
from sglang_hisa.patches.unreached import unreached
from tests.launch.cli.conftest import H100

pytestmark = pytest.mark.usefixtures("clean_env", "visible_plugins")

INDEXER = "srt/layers/attention/dsa/dsa_indexer.py"


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hopper GPU with every library, whatever runs the test."""
    real = checks.version_of

    def version_of(*names: str) -> str | None:
        return real(*names) or ("1.0" if names[0] != "sglang-hisa" else None)

    monkeypatch.setattr(checks, "version_of", version_of)
    monkeypatch.setattr(checks, "find_gpu", lambda: H100)


def report(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Run ``hisa doctor --json``: exit code and report."""
    code = main(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)


def failures(data: dict[str, Any]) -> list[dict[str, str]]:
    return [finding for finding in data["findings"] if finding["level"] == "FAIL"]


def test_ready_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, data = report(capsys)
    assert code == 0 and data["ok"] is True and not failures(data)
    assert data["config"] is None
    assert len(data["patches"]) == len(ROWS)
    assert not any(row["problems"] for row in data["patches"])
    checked = {finding["check"] for finding in data["findings"]}
    assert {"python", "sglang", "torch", "triton", "flashinfer", "deep_gemm", "GPU", "patch table"} <= checked


def test_moved_target_is_named(sglang_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sglang_copy / INDEXER
    text = path.read_text()
    assert "def _store_index_k_cache(" in text
    path.write_text(text.replace("def _store_index_k_cache(", "def _store_keys("))
    code, data = report(capsys)
    assert code == 1 and data["ok"] is False
    (failure,) = failures(data)
    assert failure["check"] == "patch table" and "Indexer._store_index_k_cache" in failure["detail"]
    assert failure["fix"]
    (row,) = [row for row in data["patches"] if row["problems"]]
    assert row["target"].endswith("Indexer._store_index_k_cache")


def test_changed_parameters_are_shown(sglang_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sglang_copy / "srt/mem_cache/memory_pool.py"
    path.write_text(path.read_text().replace("tgt_loc: torch.Tensor", "targets: torch.Tensor"))
    code, data = report(capsys)
    assert code == 1
    assert any("targets" in f["detail"] and "expected" in f["detail"] for f in failures(data))


@pytest.mark.parametrize("version", ["0.5.23.post1", "0.5.23+cu130", "0.5.24.dev17+gabc", None])
def test_an_sglang_is_judged_by_its_source(
    version: str | None,
    sglang_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever it calls itself; None: a checkout that was never built, with no metadata."""
    monkeypatch.setattr(source, "own_version", lambda root: version)
    monkeypatch.setattr(source, "records", list)
    code, data = report(capsys)
    (finding,) = [finding for finding in data["findings"] if finding["check"] == "sglang"]
    assert code == 0 and finding["level"] == "ok", failures(data)
    assert (version or "of an unknown version") in finding["detail"]


def test_an_unknown_body_is_refused_or_marked(
    sglang_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sglang_copy / "srt/layers/attention/dsa/dsa_indexer.py"
    before = "max_seq_len = block_tables.shape[1] * page_size"
    path.write_text(path.read_text().replace(before, "max_seq_len = 1"))
    monkeypatch.setenv("SGLANG_HISA", '{"preset": "paper", "audit": 0.5}')
    code, data = report(capsys)
    (failure,) = failures(data)
    assert code == 1 and failure["check"] == "patch table"
    assert "Indexer._get_topk_paged" in failure["detail"] and "`max_seq_len = 1`" in failure["detail"]
    typed = failure["fix"].partition("export SGLANG_HISA='")[2].removesuffix("'")
    assert json.loads(typed) == {"preset": "paper", "audit": 0.5, "unverified_source": True}
    monkeypatch.setenv("SGLANG_HISA", typed)
    code, data = report(capsys)
    (finding,) = [finding for finding in data["findings"] if finding["check"] == "patch table"]
    assert code == 0 and finding["level"] == "warn" and "unverified" in finding["detail"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("papr", ['"preset"', "papr", "balanced, decode-only, paper, paper-4to1"]),
        ('{"block": 96}', ['"block"', "96", "64, 128, 256"]),
        ('{"decode_token": 1}', ['"decode_token"', "decode_tokens"]),
        ('{"preset": ', ["not readable JSON", '{"preset":']),
    ],
)
def test_bad_settings(
    text: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGLANG_HISA", text)
    code, data = report(capsys)
    (failure,) = failures(data)
    assert code == 1 and failure["check"] == "SGLANG_HISA" and failure["fix"]
    assert all(word in failure["detail"] for word in words), failure


def test_settings_are_resolved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SGLANG_HISA", '{"preset": "paper", "sink_tokens": 130}')
    code, data = report(capsys)
    assert code == 0
    assert data["config"]["block"] == 128 and data["config"]["sink_tokens"] == 130
    (finding,) = [finding for finding in data["findings"] if finding["check"] == "SGLANG_HISA"]
    assert "preset paper" in finding["detail"] and "8192" in finding["detail"]


def test_missing_entry_point(visible_plugins: list[Plugin], capsys: pytest.CaptureFixture[str]) -> None:
    visible_plugins.clear()
    code, data = report(capsys)
    (failure,) = failures(data)  # the CPU stand-ins are not needed on a GPU: a warning
    assert code == 1 and failure["check"] == "plugin hisa"
    assert failure["fix"].endswith(": pip install --no-deps ."), "it is in no index"


def test_whitelist_without_hisa(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SGLANG_PLUGINS", "other, hisa_cpu")
    code, data = report(capsys)
    (failure,) = failures(data)
    assert code == 1 and "SGLANG_PLUGINS=other,hisa_cpu" in failure["detail"]
    assert failure["fix"] == "export SGLANG_PLUGINS=other,hisa_cpu,hisa"


@pytest.fixture(params=["cpu", "stand-ins"])
def on_a_cpu(request: pytest.FixtureRequest, clean_env: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the CPU stand-ins are needed: there is no GPU, or they are asked for."""
    if request.param == "cpu":
        monkeypatch.setattr(checks, "find_gpu", lambda: None)
    else:
        monkeypatch.setenv("SGLANG_HISA_CPU", "1")


def apply_export(fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Type the ``export`` that a fix names."""
    name, _, value = fix[fix.index("export ") :].removeprefix("export ").partition("=")
    monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("on_a_cpu")
def test_what_the_doctor_advises_on_a_cpu_is_right(
    visible_plugins: list[Plugin], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """HISA alone, with its stand-ins: the doctor is content afterwards."""
    visible_plugins.append(Plugin("turbo", "turbo:go", "sglang-turbo"))
    _, data = report(capsys)
    (finding,) = [finding for finding in data["findings"] if finding["check"] == "plugin turbo"]
    assert finding["fix"].endswith("export SGLANG_PLUGINS=hisa,hisa_cpu")
    apply_export(finding["fix"], monkeypatch)
    code, data = report(capsys)
    assert code == 0 and not any(finding["check"] == "plugin turbo" for finding in data["findings"])


@pytest.mark.usefixtures("on_a_cpu")
def test_one_fix_of_a_whitelist_names_all_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SGLANG_PLUGINS", "turbo")
    code, data = report(capsys)
    fixes = {failure["check"]: failure["fix"] for failure in failures(data)}
    assert code == 1 and fixes.keys() == {"plugin hisa", "plugin hisa_cpu"}
    apply_export(fixes["plugin hisa"], monkeypatch)
    assert report(capsys)[0] == 0


def test_missing_libraries_are_named_as_they_are_pinned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By SGLang's own requirements, and by torch's for triton; only torch brings what it needs."""
    missing = {"torch", "triton", "sgl-deep-gemm", "flashinfer-python"}
    real = checks.version_of
    monkeypatch.setattr(checks, "version_of", lambda *names: None if missing & {*names} else real(*names))
    _, data = report(capsys)
    fixes = {finding["check"]: finding["fix"] for finding in data["findings"]}
    pins = {}
    for line in metadata.requires("sglang") or []:
        name, equals, version = line.partition(";")[0].strip().partition("==")
        pins[name.partition("[")[0].replace("_", "-")] = version if equals else ""
    assert fixes["deep_gemm"] == f"pip install --no-deps sgl-deep-gemm=={pins['sgl-deep-gemm']}"
    assert fixes["flashinfer"] == f"pip install --no-deps flashinfer-python=={pins['flashinfer-python']}"
    assert fixes["torch"] == f"pip install torch=={pins['torch']}"
    assert fixes["triton"].startswith("pip install --no-deps triton")


def test_what_the_setting_does_not_reach_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, data = report(capsys)
    assert not any(finding["check"] == "not reached" for finding in data["findings"])
    monkeypatch.setenv("SGLANG_HISA", "balanced")
    code, data = report(capsys)
    told = [finding for finding in data["findings"] if finding["check"] == "not reached"]
    assert code == 0 and all(finding["level"] == "warn" and finding["fix"] for finding in told)
    assert [f["detail"].partition(":")[0] for f in told] == [
        row.typed for row in unreached(contract.installed_root())
    ]
    assert any("sglang.benchmark.one_batch" in finding["detail"] for finding in told)


def test_entry_point_of_another_package(
    visible_plugins: list[Plugin], capsys: pytest.CaptureFixture[str]
) -> None:
    visible_plugins.insert(0, Plugin("hisa", "elsewhere:register", "hisa-fork"))
    code, data = report(capsys)
    (failure,) = failures(data)
    assert code == 1 and "elsewhere:register" in failure["detail"] and "hisa-fork" in failure["fix"]


def test_other_plugins_are_a_warning(
    visible_plugins: list[Plugin], capsys: pytest.CaptureFixture[str]
) -> None:
    visible_plugins.append(Plugin("turbo", "turbo:go", "sglang-turbo"))
    code, data = report(capsys)
    assert code == 0
    (finding,) = [finding for finding in data["findings"] if finding["check"] == "plugin turbo"]
    assert finding["level"] == "warn" and "sglang-turbo" in finding["detail"]


@pytest.mark.parametrize(("capability", "level"), [((8, 0), "FAIL"), ((9, 0), "ok"), ((10, 0), "FAIL")])
def test_gpu_generation(
    capability: tuple[int, int],
    level: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(checks, "find_gpu", lambda: checks.Gpu("some GPU", capability, 2))
    code, data = report(capsys)
    (finding,) = [finding for finding in data["findings"] if finding["check"] == "GPU"]
    assert finding["level"] == level and code == int(level == "FAIL")


def test_gpu_without_a_record(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A server declines it; the fix keeps the settings, and with it doctor and server go on."""
    monkeypatch.setattr(checks, "find_gpu", lambda: checks.Gpu("NVIDIA B200", (10, 0), 8))
    monkeypatch.setenv("SGLANG_HISA", '{"preset": "paper", "audit": 0.5}')
    code, data = report(capsys)
    (failure,) = failures(data)
    assert code == 1 and failure["check"] == "GPU" and "NVIDIA B200" in failure["detail"]
    typed = failure["fix"].partition("export SGLANG_HISA='")[2].removesuffix("'")
    assert json.loads(typed) == {"preset": "paper", "audit": 0.5, "unverified_gpu": True}
    monkeypatch.setenv("SGLANG_HISA", typed)
    code, data = report(capsys)
    (finding,) = [finding for finding in data["findings"] if finding["check"] == "GPU"]
    assert code == 0 and finding["level"] == "warn" and "unverified" in finding["detail"]
    monkeypatch.setenv("SGLANG_HISA", "{")  # said elsewhere
    assert {failure["check"] for failure in failures(report(capsys)[1])} == {"GPU", "SGLANG_HISA"}


def test_tables_hold_every_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["doctor", "-v"]) == 0
    text = capsys.readouterr().out
    here = {one.patch.hook: one.target for one in contract.read(contract.installed_root()).patches}
    for patch in PATCHES:
        assert patch.why in text
    for target in here.values():
        assert target.removeprefix("sglang.").removeprefix("srt.") in text


def test_sglang_is_not_imported() -> None:
    code = (
        "import sys, sglang_hisa.launch.cli as c; c.main(['doctor', '--json']);"
        " assert 'sglang' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["findings"]
