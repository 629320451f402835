"""The GPU of a server, and on which GPUs HISA was shown to be right."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sglang_hisa.config import Config, export

SHOWN = ((9, 0),)
"""Compute capabilities of the GPUs in launch/results (H100 and H200)."""


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as CUDA reports it."""

    name: str
    capability: tuple[int, int]

    @property
    def verified(self) -> bool:
        """Whether a record shows HISA on GPUs of this compute capability."""
        return self.capability in SHOWN

    @property
    def version(self) -> str:
        """Its compute capability in words, "9.0"."""
        return "{}.{}".format(*self.capability)

    def report(self) -> dict[str, str | bool]:
        """What receipts say of it."""
        return {"name": self.name, "capability": self.version, "verified": self.verified}


def find(index: int | None = None) -> Gpu | None:
    """GPU ``index`` (None: the current one); None on a CPU, and with a torch for ROCm."""
    import torch  # `hisa doctor` imports this module where torch may be what is missing

    if torch.version.hip or not torch.cuda.is_available():
        return None
    return Gpu(torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index))


def unverified(gpu: Gpu | None) -> str:
    """Why HISA is not served on ``gpu``, in words; empty where a record shows it, and on a CPU."""
    if gpu is None or gpu.verified:
        return ""
    shown = ", ".join("{}.{}".format(*one) for one in SHOWN)
    return f"{gpu.name}: no record shows HISA on compute capability {gpu.version} (records: {shown})"


def all_the_same(config: Config) -> str:
    """The command after which a server with the settings ``config`` starts on a GPU that no record shows."""
    return export(dataclasses.replace(config, unverified_gpu=True))


def declined(gpu: Gpu | None, config: Config) -> list[str]:
    """Reasons why ``gpu`` is not served with these settings; empty if it is."""
    reason = "" if config.unverified_gpu else unverified(gpu)
    if not reason:
        return []
    return [f"{reason}; fix: {all_the_same(config)} serves on it all the same, marked unverified"]
