"""A prefill chunk of a real top-k (2048) takes megabytes on a CPU, not a copy of its keys for each row."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sglang_hisa.patches.cpu import attention, mqa, tiles

BEFORE = """
import resource, torch
from sglang_hisa.patches.cpu import attention, mqa
torch.set_num_threads(1)
rows, keys, heads = 600, 2048, 4
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""
CASES = {
    "attention": """
q, cache = torch.randn(rows, heads, 576).bfloat16(), torch.randn(keys, 1, 576).bfloat16()
slots = torch.arange(keys, dtype=torch.int32).expand(rows, keys).contiguous()
start = peak()
attention.flashmla_sparse(None, q, cache, 512, slots, 0.1)
""",
    "paged logits": """
q = torch.randn(rows, 1, 32, 128).to(torch.float8_e4m3fn)
pool = torch.zeros(32, 64, 1, 132, dtype=torch.uint8)
table = torch.arange(32, dtype=torch.int32).expand(rows, 32).contiguous()
lengths = torch.full((rows,), keys, dtype=torch.int32)
start = peak()
mqa.paged_logits(q, pool, torch.randn(rows, 32), lengths, table, None, keys)
""",
    "flat logits": """
rows = 4 * keys
q = torch.randn(rows, 32, 128).to(torch.float8_e4m3fn)
kv = torch.randn(keys, 128).to(torch.float8_e4m3fn), torch.ones(keys)
ends = torch.full((rows,), keys, dtype=torch.int32)
start = peak()
mqa.flat_logits(q, kv, torch.randn(rows, 32), torch.zeros_like(ends), ends)
""",
}


@pytest.mark.parametrize("name", CASES)
def test_memory_of_a_chunk_is_bounded(name: str) -> None:
    """All rows at once take 0.6 GB (paged) to 2.8 GB (attention)."""
    code = f"{BEFORE}\n{CASES[name]}\nprint(peak() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 450, "MiB"


def test_rows_taken_a_few_at_a_time_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    q, cache = torch.randn(7, 2, 12), torch.randn(128, 1, 12)
    slots = torch.randint(-1, 128, (7, 9), dtype=torch.int32)
    sizes = torch.tensor([9, 0, 3, 9, 1, 5, 8], dtype=torch.int32)
    q8, weights = torch.randn(7, 3, 128).to(torch.float8_e4m3fn), torch.randn(7, 3)
    pool = torch.randint(0, 60, (4, 64, 1, 132), dtype=torch.uint8)
    table = torch.randint(0, 4, (7, 3), dtype=torch.int32)
    lengths = torch.tensor([1, 64, 65, 190, 192, 100, 7], dtype=torch.int32)
    kv = torch.randn(50, 128).to(torch.float8_e4m3fn), torch.rand(50)
    ends = torch.tensor([1, 50, 33, 20, 11, 50, 49], dtype=torch.int32)

    def every() -> list[torch.Tensor]:
        return [
            attention.flashmla_sparse(None, q, cache, 8, slots, 0.3, sizes),
            mqa.paged_logits(q8[:, None], pool, weights, lengths, table, None, 192, clean_logits=True),
            mqa.flat_logits(q8, kv, weights, torch.zeros_like(ends), ends, clean_logits=True),
        ]

    whole = every()
    monkeypatch.setattr(tiles, "BYTES", 1000)  # two rows of the attention, one of the others
    for one, other in zip(whole, every()):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_every_row_is_in_one_part() -> None:
    parts = list(tiles.tiles(10, tiles.BYTES // 4))
    assert [row for part in parts for row in range(10)[part]] == list(range(10))
    assert [part.stop - part.start for part in parts] == [4, 4, 2]
    assert [part.stop - part.start for part in tiles.tiles(2, 10 * tiles.BYTES)] == [1, 1]
    assert list(tiles.tiles(0, 0)) == []
