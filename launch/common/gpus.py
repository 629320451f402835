"""Which GPUs a server that starts here would see."""

from __future__ import annotations

from collections.abc import Mapping

from sglang_hisa.launch.common.provenance import output


def visible_gpus(env: Mapping[str, str]) -> list[str]:
    """``CUDA_VISIBLE_DEVICES`` of ``env``, or the numbers of all GPUs of this machine."""
    if (named := env.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    listed = output("nvidia-smi", "--list-gpus") or ""
    return [str(number) for number, _ in enumerate(listed.splitlines())]
