"""CPU stand-in for the package sgl_kernel: SGLang imports its names at module level.

The functions of top-k and of speculative decoding work (in PyTorch); every other name is a function that
raises when called.
"""

import torch

__version__ = "0.4.10"


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    from sglang_hisa.patches.cpu import speculative

    if hasattr(speculative, name):
        return getattr(speculative, name)

    def missing(*args, **kwargs):
        raise NotImplementedError(f"sgl_kernel.{name} has no CPU stand-in")

    missing.__name__ = name
    return missing


def fast_topk_v2(score, lengths, topk, row_starts=None):
    from sglang_hisa.patches.cpu.topk import positions

    return positions(score, lengths, topk, row_starts)


def fast_topk_transform_fused(score, lengths, page_table_size_1, cu_seqlens_q, topk, row_starts=None):
    from sglang_hisa.patches.cpu.topk import positions, through_table

    rows = score.shape[0]
    counts = cu_seqlens_q[1:] - cu_seqlens_q[:-1]
    owner = torch.repeat_interleave(torch.arange(counts.numel()), counts.long(), output_size=rows)
    return through_table(positions(score, lengths, topk, row_starts), page_table_size_1[owner], 1)


def fast_topk_transform_ragged_fused(score, lengths, topk_indices_offset, topk, row_starts=None):
    from sglang_hisa.patches.cpu.topk import positions

    at = positions(score, lengths, topk, row_starts)
    return torch.where(at >= 0, at + topk_indices_offset[:, None].to(torch.int32), at)
