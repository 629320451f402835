"""HiCache on a CPU: the kernels that copy between device and host pools, which CUDA builds import by name.

Pools, page indices, layouts, eviction and the controller are SGLang's own. ``item_size`` and the layout
sizes are bytes; indices count items of that size.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch

_RESERVE = 1 << 30
"""Host memory that stock leaves free is 10 GiB: more than a small machine has."""


def _rows(buffer: torch.Tensor, size: int) -> torch.Tensor:
    """The bytes of a contiguous buffer as uint8 ``[n, size]``."""
    return buffer.view(torch.uint8).view(-1, size)


def _rows_at(pointer: int, rows: int, size: int) -> torch.Tensor:
    """uint8 ``[rows, size]`` of memory that a table of layer pointers names."""
    memory = (ctypes.c_uint8 * (rows * size)).from_address(pointer)
    return torch.frombuffer(memory, dtype=torch.uint8).view(rows, size)


def _layers(pointers: torch.Tensor, indices: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Each layer's rows, as far as ``indices`` reach."""
    rows = int(indices.max()) + 1 if indices.numel() else 0
    return [_rows_at(pointer, rows, size) for pointer in pointers.tolist()]


def per_layer(
    src: torch.Tensor,
    dst: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
    **_: Any,
) -> None:
    """``transfer_kv_per_layer_mla``: one layer, host and device both layer first."""
    _rows(dst, item_size)[dst_indices] = _rows(src, item_size)[src_indices]


def all_layers(
    src_layers: torch.Tensor,
    dst_layers: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
    num_layers: int,
    **_: Any,
) -> None:
    """``transfer_kv_all_layer_mla``: the same for all layers, through tables of pointers."""
    if len(src_layers) != num_layers or len(dst_layers) != num_layers:
        raise ValueError(f"{len(src_layers)} and {len(dst_layers)} pointers for {num_layers} layers")
    sources = _layers(src_layers, src_indices, item_size)
    for src, dst in zip(sources, _layers(dst_layers, dst_indices, item_size)):
        dst[dst_indices] = src[src_indices]


def per_layer_from_page_first(
    src: torch.Tensor,
    dst: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    layer_id: int,
    item_size: int,
    src_layout_dim: int,
    **_: Any,
) -> None:
    """``transfer_kv_per_layer_mla_pf_lf``: a host row holds the item of each layer, one after the other."""
    layer = _rows(src, src_layout_dim)[:, layer_id * item_size : (layer_id + 1) * item_size]
    _rows(dst, item_size)[dst_indices] = layer[src_indices]


def all_layers_to_page_first(
    src_layers: torch.Tensor,
    dst: torch.Tensor,
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    item_size: int,
    dst_layout_dim: int,
    num_layers: int,
    **_: Any,
) -> None:
    """``transfer_kv_all_layer_mla_lf_pf``."""
    host = _rows(dst, dst_layout_dim)
    for layer, src in enumerate(_layers(src_layers[:num_layers], src_indices, item_size)):
        host[dst_indices, layer * item_size : (layer + 1) * item_size] = src[src_indices]


def direct(
    src_layers: Sequence[torch.Tensor],
    dst_layers: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    page_size: int,
) -> None:
    """``transfer_kv_direct``: both layer first, without a kernel."""
    for src, dst in zip(src_layers, dst_layers, strict=True):
        dst[dst_indices] = src[src_indices]


def per_layer_from_page_first_direct(
    src_ptrs: Sequence[torch.Tensor],
    dst_ptrs: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    layer_id: int,
    page_size: int,
) -> None:
    """``transfer_kv_per_layer_direct_pf_lf``: host buffers are ``[pages, layers, page_size, ...]``."""
    pages = src_indices[::page_size] // page_size
    for src, dst in zip(src_ptrs, dst_ptrs, strict=True):
        dst[dst_indices] = src[pages, layer_id].flatten(0, 1)


def all_layers_to_page_first_direct(
    src_ptrs: Sequence[torch.Tensor],
    dst_ptrs: Sequence[torch.Tensor],
    src_indices: torch.Tensor,
    dst_indices: torch.Tensor,
    page_size: int,
) -> None:
    """``transfer_kv_all_layer_direct_lf_pf``."""
    pages = dst_indices[::page_size] // page_size
    for layer, src in enumerate(src_ptrs):
        dst_ptrs[0][pages, layer] = src[src_indices].unflatten(0, (-1, page_size))


def no_host_register(buffer: torch.Tensor, registration_granularity_bytes: int | None = None) -> None:
    """``_cuda_host_register``: memory needs no pinning."""


def after_host_pool_init(result: None, self: Any, *args: Any, **kwargs: Any) -> None:
    """Host pools ask for pinned memory again for each page of a storage backend."""
    self.pin_memory = False


KERNELS = {
    "transfer_kv_per_layer_mla": per_layer,
    "transfer_kv_all_layer_mla": all_layers,
    "transfer_kv_per_layer_mla_pf_lf": per_layer_from_page_first,
    "transfer_kv_all_layer_mla_lf_pf": all_layers_to_page_first,
    "transfer_kv_direct": direct,
    "transfer_kv_per_layer_direct_pf_lf": per_layer_from_page_first_direct,
    "transfer_kv_all_layer_direct_lf_pf": all_layers_to_page_first_direct,
}
"""SGLang's name -> its form in PyTorch."""


def install() -> None:
    """Put the kernels where the host pools' modules have them on CUDA; on a CPU they lack the names."""
    old = importlib.util.find_spec("sglang.srt.mem_cache.pool_host.dsa") is None
    indexer = "memory_pool_host" if old else "pool_host.dsa"
    for name in ("pool_host.mla", indexer):
        module = importlib.import_module(f"sglang.srt.mem_cache.{name}")
        vars(module).update(KERNELS)
    for name in ("pool_host.base", *((indexer,) if old else ())):
        module = importlib.import_module(f"sglang.srt.mem_cache.{name}")
        vars(module)["HICACHE_HOST_MEMORY_RESERVE_BYTES"] = _RESERVE
