"""How kernels are launched, by GPU: the table that ``hisa bench tune`` is for.

The defaults are those of an H100 (``launch/results/tune-h100.json``); an H200 has the same multiprocessors.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """Sizes of programs; none changes what a kernel computes."""

    coarse_pages: int = 128
    """Summaries that a program of the coarse filter scores at a time."""
    coarse_warps: int = 8
    coarse_programs: int = 4096
    """Programs beyond which a program scores several tiles, one after the other."""
    rank_pairs: int = 2560 * 2560
    """Rows x blocks x blocks up to which blocks are ranked by counting (:mod:`sglang_hisa.kernels.rank`): one
    row of 160K tokens, DeepSeek-V3.2's longest. Blocks are those of a graph's bound."""
    rank_tile: int = 4
    """Blocks that a program ranks."""
    rank_chunk: int = 1024
    """Blocks that they are compared with at a time."""
    rank_warps: int = 4
    pick_blocks: int = 512
    """Blocks of a row that a warp of its search holds, up to 8 warps."""
    pick_warps: int = 4
    """Fewest warps of a row's search in steps of at most 256 rows."""
    pick_warps_many: int = 2
    """The same in larger steps, which fill the chip with rows."""
    refine_rows: int = 0
    """Rows of a decode step up to which our own kernel scores tokens although DeepGEMM could (``"refine":
    "auto"``). 0 until a GPU has measured it."""
    refine_programs: int = 512
    """Programs of our refine kernel beyond which a program scores several pages, one after the other: about
    four a multiprocessor."""
    refine_pages: int = 32
    """Most pages of one of them."""
    refine_warps: int = 4
    refine_stages: int = 3
    """Of its loop: 3 loads keys and scales a page ahead, 5 two, 7 three. (Until ``tune-h100.json`` 2 loaded
    keys a page ahead, and no scales.)"""


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
