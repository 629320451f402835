"""Copies from the host that nobody waits for."""

from __future__ import annotations

import torch


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``values``, a tensor on the host, on ``device``: a GPU gets them in the order of its current stream.

    A copy from pageable memory makes the host wait until all earlier work of that stream is done, so that the
    next launches come late. Pinned memory is kept by PyTorch's allocator until the copy has been made.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
