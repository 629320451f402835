"""Triton kernels of HISA, each with its plain-PyTorch truth in :mod:`sglang_hisa.kernels.reference`.

Every launcher takes ``backend``: ``"triton"``, or ``"torch"`` for the reference (the CPU path).
"""

from sglang_hisa.kernels.coarse import coarse_scores
from sglang_hisa.kernels.gather import gather_blocks
from sglang_hisa.kernels.pick import pick_pages
from sglang_hisa.kernels.plan import count_rows, plan_rows
from sglang_hisa.kernels.positions import map_positions
from sglang_hisa.kernels.refine import refine_logits
from sglang_hisa.kernels.route import route_heads
from sglang_hisa.kernels.seal import layer_offsets, seal_pages, seal_rows, seal_tokens

__all__ = [
    "coarse_scores",
    "count_rows",
    "gather_blocks",
    "layer_offsets",
    "map_positions",
    "pick_pages",
    "plan_rows",
    "refine_logits",
    "route_heads",
    "seal_pages",
    "seal_rows",
    "seal_tokens",
]
