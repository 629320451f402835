"""Sizes of launches against Triton's own."""

import triton

from sglang_hisa.kernels.sizes import cdiv, power_of_2


def test_they_are_tritons():
    for count in (*range(1, 70), 4095, 4096, 4097, 1 << 30):
        assert power_of_2(count) == triton.next_power_of_2(count)
        assert all(cdiv(count, size) == triton.cdiv(count, size) for size in (1, 2, 7, 64))
    assert cdiv(0, 64) == 0
