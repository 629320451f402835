"""Launch settings by GPU: which file is taken, what stops a server, what `hisa bench tune --apply` keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sglang_hisa.kernels import tuning
from sglang_hisa.kernels.tuning import DEFAULT
from sglang_hisa.launch.cli import checks

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the files, not there yet, on a machine with an H100."""
    monkeypatch.setattr(tuning, "TUNED", tmp_path / "tuned")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: H100)
    tuning.for_device.cache_clear()
    yield tmp_path / "tuned"
    tuning.for_device.cache_clear()


def test_the_longest_fitting_name_is_taken(tuned: Path) -> None:
    tuned.mkdir()
    for name, warps in (("H100", 1), ("H100-80GB", 2), ("H100-80GB-HBM3-MIG", 16), ("H20", 8)):
        (tuned / f"{name}.json").write_text(json.dumps({"refine_warps": warps, "refine_rows": 0}))
    assert tuning.load(H100) == replace(DEFAULT, refine_warps=2, refine_rows=0)
    assert tuning.load("NVIDIA H100 PCIe") == replace(DEFAULT, refine_warps=1, refine_rows=0)
    assert tuning.load("NVIDIA A100/B") == DEFAULT
    assert tuning.file_name("NVIDIA A100/B") == "A100-B"


def test_what_is_kept_is_used(tuned: Path) -> None:
    found = replace(DEFAULT, refine_rows=64, coarse_warps=4)
    gpu = torch.device("cuda")
    assert tuning.for_device(gpu) == DEFAULT
    assert tuning.save(H100, found) == tuned / "H100-80GB-HBM3.json"
    assert tuning.for_device(gpu) == found and tuning.for_device(torch.device("cpu")) == DEFAULT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"refine_warp": 4}', "refine_warp=4 "),
        ('{"refine_warps": 0, "rank_pairs": 0}', "settings refine_warps=0 are"),
        ('{"rank_pairs": -1}', "rank_pairs=-1 "),
        ('{"coarse_pages": true}', "coarse_pages=True "),
        ('{"coarse_pages": 64.0}', "coarse_pages=64.0 "),
    ],
)
def test_a_wrong_file_is_named_with_its_fix(text: str, words: str, tuned: Path) -> None:
    tuned.mkdir()
    (tuned / "H100.json").write_text(text)
    with pytest.raises(tuning.TuningError) as caught:
        tuning.load(H100)
    assert words in f"{caught.value}." and str(tuned / "H100.json") in str(caught.value)
    finding = checks.check_refine(checks.Gpu(H100, (9, 0), 1))
    assert finding.level == checks.FAIL and words in finding.detail
    assert finding.fix.startswith("hisa bench tune --apply, ") and f"rm {tuned / 'H100.json'}" in finding.fix


def test_the_doctor_names_the_file(tuned: Path) -> None:
    gpu = checks.Gpu(H100, (9, 0), 1)
    assert "launched as on an H100" in checks.check_refine(gpu).detail
    tuned.mkdir()
    (tuned / "H100.json").write_text("{}")
    assert "launched as H100.json says" in checks.check_refine(gpu).detail
