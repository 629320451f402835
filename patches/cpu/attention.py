"""Sparse MLA attention and yarn rope in PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from sglang_hisa.patches.cpu.tiles import tiles


def flashmla_sparse(
    self: Any,
    q_all: torch.Tensor,
    kv_cache: torch.Tensor,
    v_head_dim: int,
    page_table_1: torch.Tensor,
    sm_scale: float,
    topk_length: torch.Tensor | None = None,
    attn_sink: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of each query over its chosen slots.

    q ``[rows, heads, d]``, kv_cache ``[slots, 1, d]`` or paged, page_table_1 int32 ``[rows, k]`` (-1: none;
    with topk_length, columns from it on are unread), attn_sink ``[heads]`` (a score that takes weight and has
    no value) -> ``[rows, heads, v_head_dim]``. Slots are summed in ascending order, so the same set of slots
    gives the same bits, whichever top-k kernel ordered it.
    """
    slots = page_table_1.long()
    if topk_length is not None:
        slots = slots.masked_fill(torch.arange(slots.shape[1]) >= topk_length[:, None], -1)
    slots = slots.sort(dim=1).values
    flat = kv_cache.reshape(-1, q_all.shape[-1])
    out = q_all.new_empty(*q_all.shape[:2], v_head_dim)
    # A short context fills few of the columns. A row's own count alone says how many of them are used, or its
    # bits would depend on the rows beside it.
    counts = (slots >= 0).sum(dim=1).clamp_min(1)
    widths = (
        (2 ** torch.ceil(torch.log2(counts.float()))).int().clamp(min(64, slots.shape[1]), slots.shape[1])
    )
    for width in widths.unique().tolist():
        rows = (widths == width).nonzero().squeeze(1)
        for part in tiles(rows.shape[0], 4 * width * q_all.shape[-1]):
            at = rows[part]
            used = slots[at, slots.shape[1] - width :]
            out[at] = _attend(q_all[at], flat, used, v_head_dim, sm_scale, attn_sink)
    return out


def _attend(
    q: torch.Tensor,
    flat: torch.Tensor,
    slots: torch.Tensor,
    v_head_dim: int,
    sm_scale: float,
    attn_sink: torch.Tensor | None,
) -> torch.Tensor:
    """:func:`flashmla_sparse` of a few rows: flat ``[slots, d]``, slots int64 ``[rows, k]``, ascending."""
    valid = slots >= 0
    keys = flat[slots.clamp_min(0)].float()
    keys.masked_fill_(~valid[..., None], 0)  # nobody wrote slot 0: it may hold NaN
    scores = torch.einsum("rhd,rkd->rhk", q.float(), keys) * sm_scale
    # A padded row has no slot at all: its output is zero, not NaN.
    scores = scores.masked_fill(~valid[:, None], float("-inf"))
    if attn_sink is not None:
        scores = torch.cat((scores, attn_sink.float()[:, None].expand(*scores.shape[:2], 1)), dim=-1)
    weights = torch.softmax(scores, dim=-1).nan_to_num()[..., : keys.shape[1]]
    return torch.einsum("rhk,rkd->rhd", weights, keys[..., :v_head_dim]).to(q.dtype)


def rotate(x: torch.Tensor, table: torch.Tensor, size: int, *, neox: bool) -> torch.Tensor:
    """Rope of the first ``size`` elements: x ``[n, h, d]`` fp32, table ``[n, size]`` (cosines, sines)."""
    cos, sin = (part[:, None] for part in table.chunk(2, dim=-1))
    turned, rest = x[..., :size], x[..., size:]
    if neox:
        first, second = turned.chunk(2, dim=-1)
    else:
        first, second = turned[..., ::2], turned[..., 1::2]
    parts = (first * cos - second * sin, second * cos + first * sin)
    turned = torch.cat(parts, -1) if neox else torch.stack(parts, -1).flatten(-2)
    return torch.cat((turned, rest), dim=-1)


def rope(
    self: Any,
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    offsets: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate the first ``rotary_dim`` of query and key (any leading shape), neox or interleaved."""
    if offsets is not None:
        positions = positions + offsets
    table = self.cos_sin_cache[positions.flatten()].float()

    def turned(x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(positions.numel(), -1, x.shape[-1]).float()
        return rotate(rows, table, self.rotary_dim, neox=self.is_neox_style).reshape(x.shape).to(x.dtype)

    return turned(query), turned(key)


def make_rope(
    original: Any,
    head_size: int,
    rotary_dim: int,
    max_position: int,
    base: int,
    is_neox_style: bool = True,
    rope_scaling: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    partial_rotary_factor: float = 1.0,
    device: str | None = None,
) -> Any:
    """A rope without scaling comes from the factory of the other devices; SGLang's module has a CPU form."""
    from sglang.srt.layers.rotary_embedding import factory

    shape = (head_size, rotary_dim, max_position, base, is_neox_style, rope_scaling, dtype)
    if rope_scaling is not None:
        return original(*shape, partial_rotary_factor, device)
    return factory.get_rope(*shape, partial_rotary_factor)
