"""How kernels are launched, by GPU. ``hisa bench tune`` measures them; change the table from its record."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """Sizes of programs; none changes what a kernel computes."""

    coarse_pages: int = 64
    """Summaries that a program of the coarse filter scores at a time."""
    coarse_warps: int = 4
    coarse_programs: int = 1024
    """Programs that the chip holds at once, about: more work than that loops inside them."""
    rank_pairs: int = 1 << 26
    """Rows x blocks x blocks up to which blocks are ranked by counting (:mod:`sglang_hisa.kernels.rank`)."""
    rank_tile: int = 16
    """Blocks that a program ranks."""
    rank_chunk: int = 1024
    """Blocks that they are compared with at a time."""
    rank_warps: int = 8
    pick_warps: int = 8
    """Warps of a row's pick in steps of at most 256 rows."""
    pick_warps_many: int = 4
    refine_pages: int = 2
    """Pages of a program of the Triton refine kernel in small steps, which need many programs."""
    refine_pages_many: int = 8
    """The same in large ones, which would rather load the queries once."""
    refine_warps: int = 4
    refine_warps_many: int = 4
    refine_stages: int = 3
    """Loads in flight of the refine kernel."""


DEFAULT = Settings()
BY_GPU: dict[str, Settings] = {"H100": DEFAULT, "H200": DEFAULT}
"""By a part of the name that CUDA gives."""


@functools.cache
def for_device(device: torch.device) -> Settings:
    """Settings of a device: those of its GPU, or the defaults."""
    if device.type != "cuda":
        return DEFAULT
    name = torch.cuda.get_device_name(device)
    return next((settings for part, settings in BY_GPU.items() if part in name), DEFAULT)
