"""How many GPUs the CUDA driver shows, in milliseconds and without torch."""

from __future__ import annotations

import ctypes


def count() -> int:
    """GPUs that a server started here could use (``CUDA_VISIBLE_DEVICES`` counts); 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    found = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(found)):
        return 0
    return found.value
