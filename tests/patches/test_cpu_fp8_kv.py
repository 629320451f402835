"""The CPU stand-ins of the fp8 KV cache against its byte layout, element by element."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sglang_hisa.patches.cpu import fp8_kv
from tests.patches.test_cpu_stand_ins import nearest


def tokens(count):
    generator = torch.Generator().manual_seed(count)
    latent = torch.randn(count, 1, 512, generator=generator).to(torch.bfloat16)
    return latent, torch.randn(count, 1, 64, generator=generator).to(torch.bfloat16)


def stored(count):
    return torch.cat(fp8_kv.quantise(*tokens(count)), dim=-1)


def test_bytes_of_a_token():
    """512 fp8 values, the fp32 scale of each 128 of them, 64 bf16 values."""
    latent, rope = tokens(3)
    parts = fp8_kv.quantise(latent, rope)
    assert [part.shape for part in parts] == [(3, 1, 528), (3, 1, 128)]
    rows = torch.cat(parts, dim=-1)[:, 0]
    assert rows.dtype == torch.uint8
    for row, given, turned in zip(rows, latent[:, 0].float(), rope[:, 0]):
        scales = np.frombuffer(row[512:528].numpy().tobytes(), np.float32)
        for group, scale in enumerate(scales):
            values = given[group * 128 : (group + 1) * 128].numpy()
            assert scale == np.abs(values).max() / np.float32(448)
            got = row[group * 128 : (group + 1) * 128].view(torch.float8_e4m3fn).float().tolist()
            inverse = np.float32(1) / scale
            assert got == [nearest(max(-448.0, min(448.0, float(v * inverse)))) for v in values]
        assert row[528:].view(torch.bfloat16).tolist() == turned.tolist()


def test_a_latent_of_zeros_stays_zero():
    parts = fp8_kv.quantise(torch.zeros(2, 512).to(torch.bfloat16), torch.ones(2, 64).to(torch.bfloat16))
    got = fp8_kv.dequantise(torch.cat(parts, dim=-1), torch.arange(2))
    assert got.tolist() == [[[0.0] * 512 + [1.0] * 64]] * 2


def test_dequantised_slots_in_any_order():
    rows, slots = stored(7), torch.tensor([6, 0, 0, 3], dtype=torch.int32)
    got = fp8_kv.dequantise(rows.view(torch.float8_e4m3fn), slots)
    assert got.shape == (4, 1, 576) and got.dtype == torch.bfloat16
    for at, slot in enumerate(slots.tolist()):
        scales = rows[slot, 0, 512:528].contiguous().view(torch.float32)
        values = rows[slot, 0, :512].view(torch.float8_e4m3fn).float().view(4, 128)
        assert got[at, 0, :512].tolist() == (values * scales[:, None]).flatten().to(torch.bfloat16).tolist()
        assert got[at, 0, 512:].tolist() == rows[slot, 0, 528:].view(torch.bfloat16).tolist()


def test_flashmla_reads_the_chosen_slots_only():
    rows, heads = stored(9), 3
    rows[0] = rows[4] = 255  # NaN, chosen by nobody
    q = torch.randn(2, heads * 576, generator=torch.Generator().manual_seed(5)).to(torch.bfloat16)
    chosen = torch.tensor([[8, 2, 3, -1], [5, -1, -1, -1]], dtype=torch.int32)
    backend = SimpleNamespace(dsa_kv_cache_store_fp8=True, dsa_index_topk=4)
    layer = SimpleNamespace(tp_q_head_num=heads, head_dim=576)
    got = fp8_kv.flashmla_kv(backend, q, rows.view(torch.float8_e4m3fn), 512, 0.05, layer, None, chosen)
    assert got.shape == (2, heads, 512)
    for row in range(2):
        slots = chosen[row][chosen[row] >= 0]
        keys = fp8_kv.dequantise(rows, slots)[:, 0].double()
        for head in range(heads):
            scores = keys @ q[row].view(heads, 576)[head].double() * 0.05
            expected = torch.softmax(scores, dim=0) @ keys[:, :512]
            torch.testing.assert_close(got[row, head].double(), expected, rtol=0.01, atol=0.01)
    with pytest.raises(ValueError, match="3 slots a row"):
        fp8_kv.flashmla_kv(backend, q, rows, 512, 0.05, layer, None, chosen[:, :3])
