"""Timelines of decode layers, out of traces as SGLang's profiler writes them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.bench import server_layer

COARSE, PICK = "_coarse_kernel", "_pick_kernel"
SCORES = "void deep_gemm::sm90_fp8_paged_mqa_logits<1u, 64u>"
METADATA = "void deep_gemm::sched::sm90_paged_mqa_logits_metadata<32u>"
TOPK = "void sglang::topk_main_kernel<true, 2>(sglang::TopKPagedParams)"


def kernel(name: str, begin: float, length: float) -> dict[str, Any]:
    return {"cat": "kernel", "name": name, "ts": begin, "dur": length}


def written(folder: Path, events: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True)
    trace = folder / "TP-0.trace.json.gz"
    trace.write_bytes(gzip.compress(json.dumps({"traceEvents": events[::-1]}).encode()))
    return trace


def layer(begin: float, slower: float = 0) -> list[dict[str, Any]]:
    """One of HISA's, whose top-k takes ``slower`` us more, among kernels of the model."""
    return [
        kernel("nvjet_gemm", begin - 5, 4),
        kernel(COARSE, begin, 8),
        kernel(PICK, begin + 6, 12),
        kernel(SCORES, begin + 7, 30),
        {"cat": "gpu_user_annotation", "name": TOPK, "ts": begin, "dur": 99},
        kernel(TOPK, begin + 37, 11 + slower),
    ]


def test_medians_of_full_decode_layers(tmp_path: Path) -> None:
    """Not of a step that had stock's kernels alone, nor of what was cut off at the end."""
    events = [kernel(METADATA, 1, 3), kernel(SCORES, 10, 160), kernel(TOPK, 171, 79)]
    events += [*layer(500), *layer(700, slower=1), *layer(900, slower=9), *layer(1100)[:3]]
    found = server_layer.layers(server_layer.read(written(tmp_path / "one", events)))
    assert len(found) == 3
    assert server_layer.shown("paper", found).splitlines() == [
        "paper (3 layers)",
        "      0.0 to     8.0  HISA coarse",
        "      6.0 to    18.0  HISA pick",
        "      7.0 to    37.0  DeepGEMM paged_mqa_logits",
        "     37.0 to    49.0  SGLang top-k, main",
    ]


def test_an_arm_without_a_layer_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path), "--arms", "stock,paper", "--requests", "4", "--render"]
    written(tmp_path / "traces" / "paper-4", layer(50))
    assert server_layer.main(words) == 1
    written(tmp_path / "traces" / "stock-4", [kernel(SCORES, 10, 160), kernel(TOPK, 171, 79)])
    assert server_layer.main(words) == 0
    said = capsys.readouterr().out.splitlines()[-8:]
    assert said[:3] == [
        "stock (1 layers)",
        "      0.0 to   160.0  DeepGEMM paged_mqa_logits",
        "    161.0 to   240.0  SGLang top-k, main",
    ]
    assert said[3] == "paper (1 layers)" and len(said) == 8
