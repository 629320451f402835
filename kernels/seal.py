"""Seal: write the summary of a page once its 64 keys are stored.

summary(page) is a pure function of the page's stored bytes (docs/design.md, summaries): the mean of its keys
(arXiv 2603.28458). It is taken in integers, so its bits depend neither on the order of a sum nor on the
machine, and the fp8 byte is put together by hand, so that Triton's CPU interpreter, whose fp8 cast is wrong,
gives the same byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from sglang_hisa import PAGE
from sglang_hisa.kernels import reference
from sglang_hisa.kernels.layout import HEAD_DIM, KEY_BYTES, key_view, scale_view
from sglang_hisa.kernels.sizes import cdiv

_MIN_EXPONENT = tl.constexpr(reference.MIN_EXPONENT)
_INVERSE_MAX = tl.constexpr(1.0 / 448.0)


@triton.jit
def _to_e4m3(x):
    """fp32 within ±448 -> e4m3 byte (uint8), round to nearest even."""
    size = tl.abs(x)
    exponent = (size.to(tl.int32, bitcast=True) >> 23) - 127
    step = tl.maximum(exponent - 3, -9)
    # Adding 1.5 * 2**(23 + step) leaves only the bits of the e4m3 grid.
    magic = (((step + 150) << 23) | 0x400000).to(tl.float32, bitcast=True)
    size = (size + magic) - magic
    normal = (size.to(tl.int32, bitcast=True) >> 20) - (120 << 3)
    code = tl.where(size >= 0.015625, normal, (size * 512.0).to(tl.int32))
    return (code | tl.where(x < 0, 0x80, 0)).to(tl.uint8)


@triton.jit
def seal_page(
    page,
    key_ptr,
    scale_ptr,
    row_bytes,
    row_floats,
    out_key_ptr,
    out_scale_ptr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    KEY_BYTES: tl.constexpr,
):
    """Write the summary of one page. ``page`` is int64. Bits as in ``reference.page_means``."""
    token = tl.arange(0, PAGE)
    dim = tl.arange(0, DIM)
    key = tl.load(key_ptr + page * row_bytes + token[:, None] * DIM + dim[None, :]).to(tl.float32)
    scale = tl.load(scale_ptr + page * row_floats + KEY_BYTES // 4 + token)
    value = key * scale[:, None]
    largest = tl.max(tl.max(tl.abs(value), axis=1), axis=0)
    exponent = tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, _MIN_EXPONENT)
    up = ((276 - exponent) << 23).to(tl.float32, bitcast=True)
    whole = (value * up).to(tl.int32)
    total = tl.sum(whole, axis=0)
    down = ((exponent - 28) << 23).to(tl.float32, bitcast=True)
    mean = total.to(tl.float32) * down
    out_scale = tl.maximum(tl.max(tl.abs(mean), axis=0), 1e-4) * _INVERSE_MAX
    unit = tl.div_rn(mean, tl.zeros_like(mean) + out_scale)
    unit = tl.minimum(tl.maximum(unit, -448.0), 448.0)
    tl.store(out_key_ptr + page * DIM + dim, _to_e4m3(unit))
    tl.store(out_scale_ptr + page, out_scale)


@triton.jit
def seal_last_page(
    table,
    length,
    key_ptr,
    scale_ptr,
    row_bytes,
    row_floats,
    out_key_ptr,
    out_scale_ptr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    KEY_BYTES: tl.constexpr,
):
    """Seal a row's last page if its last token completed it. ``table`` points at the row's own pages."""
    if (length > 0) & (length % PAGE == 0):
        page = tl.load(table + length // PAGE - 1).to(tl.int64)
        seal_page(
            page=page,
            key_ptr=key_ptr,
            scale_ptr=scale_ptr,
            row_bytes=row_bytes,
            row_floats=row_floats,
            out_key_ptr=out_key_ptr,
            out_scale_ptr=out_scale_ptr,
            PAGE=PAGE,
            DIM=DIM,
            KEY_BYTES=KEY_BYTES,
        )


@triton.jit
def _seal_kernel(
    id_ptr,
    key_ptr,
    scale_ptr,
    row_bytes,
    row_floats,
    out_key_ptr,
    out_scale_ptr,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    KEY_BYTES: tl.constexpr,
):
    page = tl.load(id_ptr + tl.program_id(0)).to(tl.int64)
    if page >= 0:
        seal_page(
            page=page,
            key_ptr=key_ptr,
            scale_ptr=scale_ptr,
            row_bytes=row_bytes,
            row_floats=row_floats,
            out_key_ptr=out_key_ptr,
            out_scale_ptr=out_scale_ptr,
            PAGE=PAGE,
            DIM=DIM,
            KEY_BYTES=KEY_BYTES,
        )


@triton.jit
def _of_layer(offset_ptr, key_ptr, scale_ptr, out_key_ptr, out_scale_ptr):
    """The pointers of this program's layer, from those of the first: see ``layer_offsets``."""
    offset = offset_ptr + tl.program_id(1) * 3
    stored = tl.multiple_of(tl.load(offset), 16)
    return (
        key_ptr + stored,
        scale_ptr + stored // 4,
        out_key_ptr + tl.load(offset + 1),
        out_scale_ptr + tl.load(offset + 2) // 4,
    )


@triton.jit(do_not_specialize=["slot_ptr", "count"])  # else compiled anew for some numbers of tokens
def _seal_tokens_kernel(
    slot_ptr,
    offset_ptr,
    key_ptr,
    scale_ptr,
    row_bytes,
    row_floats,
    out_key_ptr,
    out_scale_ptr,
    count,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    LAYERS: tl.constexpr,
):
    at = tl.program_id(0) * PAGE + tl.arange(0, PAGE)
    slot = tl.load(slot_ptr + at, mask=at < count, other=-1).to(tl.int64)
    if LAYERS:
        key_ptr, scale_ptr, out_key_ptr, out_scale_ptr = _of_layer(
            offset_ptr, key_ptr, scale_ptr, out_key_ptr, out_scale_ptr
        )
    done = tl.where((slot >= 0) & (slot % PAGE == PAGE - 1), slot // PAGE, -1)
    page = tl.max(done, axis=0)
    while page >= 0:  # once where the tokens are of one request, more often where they are of several
        seal_page(
            page=page,
            key_ptr=key_ptr,
            scale_ptr=scale_ptr,
            row_bytes=row_bytes,
            row_floats=row_floats,
            out_key_ptr=out_key_ptr,
            out_scale_ptr=out_scale_ptr,
            PAGE=PAGE,
            DIM=DIM,
            KEY_BYTES=KEY_BYTES,
        )
        done = tl.where(done == page, -1, done)
        page = tl.max(done, axis=0)


@triton.jit
def _seal_rows_kernel(
    table_ptr,
    length_ptr,
    offset_ptr,
    key_ptr,
    scale_ptr,
    row_bytes,
    row_floats,
    out_key_ptr,
    out_scale_ptr,
    table_stride,
    PAGE: tl.constexpr,
    DIM: tl.constexpr,
    KEY_BYTES: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    key_ptr, scale_ptr, out_key_ptr, out_scale_ptr = _of_layer(
        offset_ptr, key_ptr, scale_ptr, out_key_ptr, out_scale_ptr
    )
    seal_last_page(
        table=table_ptr + row * table_stride,
        length=tl.load(length_ptr + row),
        key_ptr=key_ptr,
        scale_ptr=scale_ptr,
        row_bytes=row_bytes,
        row_floats=row_floats,
        out_key_ptr=out_key_ptr,
        out_scale_ptr=out_scale_ptr,
        PAGE=PAGE,
        DIM=DIM,
        KEY_BYTES=KEY_BYTES,
    )


Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""index_k uint8 ``[pages, 8448]``, keys fp8 ``[pages, 128]``, scales fp32 ``[pages]``."""


def layer_offsets(layers: Sequence[Layer]) -> torch.Tensor:
    """Where the tensors of each layer lie, in bytes from those of the first: int64 ``[layers, 3]``.

    They are multiples of 16, as those of every allocator are: the kernels load 16 bytes at once.
    """
    at = torch.tensor([[one.data_ptr() for one in layer] for layer in layers], dtype=torch.int64).view(-1, 3)
    offsets = at - at[:1]
    assert not (offsets % 16).any(), "a layer's tensor starts inside 16 bytes"
    return offsets.to(layers[0][0].device if layers else "cpu")


def seal_rows(
    layers: Sequence[Layer],
    offsets: torch.Tensor,
    table: torch.Tensor,
    lengths: torch.Tensor,
    backend: str,
) -> None:
    """Seal, in all layers at once, the last page of each row whose last token completed it.

    Args:
        layers: their tensors, alike in shape; offsets: :func:`layer_offsets` of them.
        table: int32 ``[rows, pages]``, lengths: int32 ``[rows]``: rows that stored one token, the last of
            their length, in every layer.
    """
    if backend == "torch":
        pages = reference.completed_pages(table, None, lengths)
        for layer in layers:
            index_k, keys, scales = layer
            reference.seal_pages(index_k, pages, keys, scales)
        return
    index_k, keys, scales = layers[0]
    _seal_rows_kernel[(lengths.shape[0], len(layers))](
        table,
        lengths,
        offsets,
        key_view(index_k),
        scale_view(index_k),
        index_k.stride(0),
        index_k.stride(0) // 4,
        keys.view(torch.uint8),
        scales,
        table.stride(0),
        PAGE,
        HEAD_DIM,
        KEY_BYTES,
        num_warps=4,
    )


def seal_tokens(
    layers: Sequence[Layer], offsets: torch.Tensor | None, slots: torch.Tensor, backend: str
) -> None:
    """Seal, in all layers at once, the pages whose 64th token is among the slots just stored.

    Args:
        layers: their tensors, alike in shape; summaries are written in place.
        offsets: :func:`layer_offsets` of them; None for one layer.
        slots: int ``[n]``, the slots (page * 64 + offset) of the store in every layer; negative ones are
            ignored.
    """
    if backend == "torch":
        for index_k, keys, scales in layers:
            reference.seal_tokens(index_k, slots[slots >= 0], keys, scales)
        return
    count = slots.numel()
    if not count:
        return
    index_k, keys, scales = layers[0]
    _seal_tokens_kernel[(cdiv(count, PAGE), len(layers))](
        slots.contiguous(),  # a draft step's slots are a column of a table, one token of each request
        scales if offsets is None else offsets,
        key_view(index_k),
        scale_view(index_k),
        index_k.stride(0),
        index_k.stride(0) // 4,
        keys.view(torch.uint8),
        scales,
        count,
        PAGE,
        HEAD_DIM,
        KEY_BYTES,
        offsets is not None,
        num_warps=4,
    )


def seal_pages(
    index_k: torch.Tensor,
    pages: torch.Tensor,
    keys: torch.Tensor,
    scales: torch.Tensor,
    backend: str,
) -> None:
    """Seal ``pages`` (int ``[n]``, physical ids) unconditionally: the rebuild used by every mover."""
    if backend == "torch":
        reference.seal_pages(index_k, pages, keys, scales)
    elif pages.numel():
        _seal_kernel[(pages.numel(),)](
            pages.contiguous(),
            key_view(index_k),
            scale_view(index_k),
            index_k.stride(0),
            index_k.stride(0) // 4,
            keys.view(torch.uint8),
            scales,
            PAGE,
            HEAD_DIM,
            KEY_BYTES,
            num_warps=4,
        )
