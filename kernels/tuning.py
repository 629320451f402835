"""Launch options of the kernels, by GPU: what ``hisa bench tune`` measures and, with ``--apply``, keeps.

The defaults are those of an H100 (``launch/results/tune-h100.json``); an H200 has the same multiprocessors.
Another GPU's, or a newer measurement, is a file in ``tuned/`` beside this one.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch


@dataclass(frozen=True)
class Tuning:
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
    rank_chunk: int = 512
    """Blocks that they are compared with at a time."""
    rank_warps: int = 4
    pick_blocks: int = 512
    """Blocks of a row that a warp of its search holds, up to 8 warps."""
    pick_warps: int = 4
    """Fewest warps of a row's search in steps of at most 256 rows."""
    pick_warps_many: int = 2
    """The same in larger steps, which fill the chip with rows."""
    refine_rows: int = 4
    """Rows of a decode step up to which our own kernel scores tokens although DeepGEMM could (``"refine":
    "auto"``), by whole layers (``launch/results/tune-layers-h100.json``)."""
    refine_programs: int = 512
    """Programs of our refine kernel beyond which a program scores several pages, one after the other: about
    four a multiprocessor."""
    refine_pages: int = 64
    """Most pages of one of them."""
    refine_warps: int = 4
    refine_stages: int = 3
    """Of its loop: 3 loads keys and scales a page ahead, 5 two, 7 three. (Until ``tune-h100.json`` 2 loaded
    keys a page ahead, and no scales.)"""
    refine_stages_shared: int = 5
    """The same where four rows or more share their pages: 5 take 0.87 to 0.91 of the time that 2 to 4 take
    (``launch/results/frontier-h200.json``)."""


DEFAULT = Tuning()
TUNED = Path(__file__).parent / "tuned"
"""Files ``NAME.json``: values of :class:`Tuning` by name, the defaults for those left out. NAME is what
:func:`file_name` makes of a GPU's name, or its beginning; of several that fit the longest is taken."""


class TuningError(ValueError):
    """A file of launch options that cannot be used; ``fix`` says what to do."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


def file_name(gpu: str) -> str:
    """``"NVIDIA H100 80GB HBM3"`` -> ``"H100-80GB-HBM3"``."""
    return "-".join(word for word in gpu.replace("/", " ").split() if word != "NVIDIA")


def tuned_file(gpu: str) -> Path | None:
    """The file with the longest name that fits the GPU that CUDA calls ``gpu``."""
    fitting = [path for path in TUNED.glob("*.json") if file_name(gpu).startswith(path.stem)]
    return max(fitting, key=lambda path: len(path.stem), default=None)


def load(gpu: str) -> Tuning:
    """Tuning of the GPU that CUDA calls ``gpu``: those of its file, or the defaults.

    Raises:
        TuningError: the file is not a JSON object, or holds something other than positive ints (or a limit of
            0) under known names.
    """
    path = tuned_file(gpu)
    if path is None:
        return DEFAULT
    fix = f"hisa bench tune --apply, or without another search: rm {path}"
    try:
        values = dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise TuningError(f"kernel settings are not a JSON object ({error}): {path}", fix) from None
    lowest = {field.name: 0 if field.name in ("rank_pairs", "refine_rows") else 1 for field in fields(Tuning)}
    wrong = [
        f"{name}={value!r}"
        for name, value in values.items()
        if name not in lowest or type(value) is not int or value < lowest[name]
    ]
    if wrong:
        raise TuningError(
            f"kernel settings {', '.join(wrong)} are unknown or not positive integers: {path}", fix
        )
    return Tuning(**values)


def save(gpu: str, tuning: Tuning) -> Path:
    """Keep the tuning of a GPU; servers that start from now on use them.

    Raises:
        OSError: the package may not be written to.
    """
    TUNED.mkdir(exist_ok=True)
    path = TUNED / f"{file_name(gpu)}.json"
    path.write_text(json.dumps(asdict(tuning), indent=1) + "\n")
    for_device.cache_clear()
    return path


_used: Tuning | None = None


def use(tuning: Tuning | None) -> None:
    """Launch this process's kernels with ``tuning`` from now on; None: with those of each device."""
    global _used
    _used = tuning
    for_device.cache_clear()


@functools.cache
def for_device(device: torch.device) -> Tuning:
    """Tuning of a device: those given to :func:`use`, else those of its GPU, or the defaults."""
    if _used is not None:
        return _used
    return load(torch.cuda.get_device_name(device)) if device.type == "cuda" else DEFAULT
