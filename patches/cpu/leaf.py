"""SGLang's small Triton kernels in PyTorch."""

from __future__ import annotations

from typing import Any

import torch

FP8 = torch.float8_e4m3fn


def act_quant(
    x: torch.Tensor, block_size: int = 128, scale_fmt: str | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """fp8 values and one fp32 scale for each ``block_size`` elements of the last dimension.

    The rule of SGLang's kernel of that name: scale = max(absmax, 1e-4) * (1 / 448), with ``scale_fmt``
    rounded up to a power of two (from the exponent: log2 of a float may round down).
    """
    if not x.is_contiguous():
        raise ValueError("act_quant: the Triton kernel refuses a tensor that is not contiguous")
    groups = x.float().unflatten(-1, (-1, block_size))
    scale = groups.abs().amax(dim=-1).clamp_min(1e-4) * (1 / 448)
    if scale_fmt is not None:
        mantissa, exponent = torch.frexp(scale)
        scale = torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).int())
    values = (groups / scale[..., None]).clamp(-448.0, 448.0)
    return values.flatten(-2).to(FP8), scale


def _split(pool: Any, buffer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of the key bytes ``[pages, page, dim]`` and scale bytes ``[pages, page, 4]``."""
    page, dim = getattr(pool, "index_page_size", pool.page_size), pool.index_head_dim
    keys = buffer[:, : page * dim].unflatten(1, (page, dim))
    return keys, buffer[:, page * dim :].unflatten(1, (page, 4))


def set_keys_and_scales(
    cls: Any,
    *,
    pool: Any,
    buf: torch.Tensor,
    loc: torch.Tensor,
    index_k: torch.Tensor,
    index_k_scale: torch.Tensor,
) -> None:
    """``SetKAndS.execute``: store quantised keys at slots."""
    keys, scales = _split(pool, buf)
    page = keys.shape[1]
    keys[loc.long() // page, loc.long() % page] = index_k.view(torch.uint8)
    scales[loc.long() // page, loc.long() % page] = index_k_scale.view(-1, 1).contiguous().view(torch.uint8)


def get_keys_and_scales(
    cls: Any,
    pool: Any,
    buf: torch.Tensor,
    page_indices: torch.Tensor,
    seq_len_tensor: torch.Tensor,
    seq_len_sum: int,
    max_seq_len: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``GetKAndS.execute``: keys and scales of all requests, one after the other."""
    keys, scales = _split(pool, buf)
    page = keys.shape[1]
    out_keys, out_scales = [], []
    for pages, length in zip(page_indices.long(), seq_len_tensor.tolist()):
        used = pages[: -(-length // page)]
        out_keys.append(keys[used].flatten(0, 1)[:length])
        out_scales.append(scales[used].flatten(0, 1)[:length])
    return torch.cat(out_keys).contiguous(), torch.cat(out_scales).contiguous()


def transform_decode(
    page_table: torch.Tensor, topk_indices: torch.Tensor, result: Any = None, page_size: int = 1
) -> torch.Tensor:
    """Positions -> slots through a table of single tokens."""
    slots = torch.gather(page_table, 1, topk_indices.clamp_min(0).long()).to(torch.int32)
    return slots.masked_fill_(topk_indices < 0, -1)


def transform_prefill(
    page_table: torch.Tensor,
    topk_indices: torch.Tensor,
    extend_lens_cpu: list[int],
    page_size: int = 1,
    output_num_tokens: int | None = None,
    page_table_is_expanded: bool = False,
    cu_seqlens_q: Any = None,
) -> torch.Tensor:
    """The same for extend rows; rows past the real ones are -1."""
    rows = sum(extend_lens_cpu)
    shape = (output_num_tokens or rows, topk_indices.shape[1])
    out = topk_indices.new_full(shape, -1, dtype=torch.int32)
    if not page_table_is_expanded:
        page_table = page_table.repeat_interleave(torch.tensor(extend_lens_cpu), dim=0)
    out[:rows] = transform_decode(page_table[:rows], topk_indices[:rows])
    return out


def set_mla_kv_buffer(
    kv_buffer: torch.Tensor,
    loc: torch.Tensor,
    cache_k_nope: torch.Tensor,
    cache_k_rope: torch.Tensor | None = None,
    *,
    reserved_skip_index: int = -1,
    dcp_world_size: int = 1,
    dcp_rank: int = 0,
) -> None:
    """Latent and rope part of each token side by side; newer SGLangs leave one slot, of padding, alone."""
    parts = [part for part in (cache_k_nope, cache_k_rope) if part is not None]
    rows = torch.cat(parts, dim=-1).view(loc.numel(), -1)
    kept = loc != reserved_skip_index
    kv_buffer.view(kv_buffer.shape[0], -1)[loc[kept].long()] = rows[kept]


def no_synchronize(device: Any = None) -> None:
    """``torch.cuda.synchronize``: the pool calls it around its copies to the host."""
