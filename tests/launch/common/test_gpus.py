"""GPUs that a server would see."""

from __future__ import annotations

import pytest

from sglang_hisa.launch.common import gpus


@pytest.mark.parametrize(
    ("listed", "found"),
    [("GPU 0: NVIDIA H200 (UUID: GPU-a)\nGPU 1: NVIDIA H200 (UUID: GPU-b)", ["0", "1"]), (None, [])],
)
def test_the_environment_names_them_or_nvidia_smi_counts(
    listed: str | None, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "output", lambda *command: listed)
    assert gpus.visible_gpus({}) == found
    assert gpus.visible_gpus({"CUDA_VISIBLE_DEVICES": "3, 5,GPU-a"}) == ["3", "5", "GPU-a"]
    assert gpus.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
