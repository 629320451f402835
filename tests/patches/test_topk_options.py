"""Options of SGLang's top-k backends reach it when HISA calls it: FlashInfer's deterministic top-k."""

import os
import subprocess
import sys

from sglang_hisa.launch.common.server import cpu_env

SCRIPT = """
import os
import sys
from types import SimpleNamespace
import torch
asked = []
def top_k(scores, k, **options):
    asked.append(options)
    return torch.topk(scores, k, dim=-1)
sys.modules["flashinfer"] = SimpleNamespace(top_k=top_k)
from sglang.srt.layers.attention.dsa.dsa_topk_backend import DSATopKBackend
from sglang_hisa.patches.stock_kernels import SglangKernels
indexer = SimpleNamespace(index_topk=3, num_init_tokens=0, num_local_tokens=0, sm_count=1)
stock = SglangKernels(indexer, SimpleNamespace(topk_backend=DSATopKBackend.FLASHINFER))
assert not stock.table_topk
scores = torch.tensor([[1.0, 4.0, 2.0, 3.0, 9.0], [5.0, 1.0, 9.0, 9.0, 9.0]])
for value in ("1", "0"):
    os.environ["SGLANG_DSA_TOPK_FLASHINFER_DETERMINISTIC"] = value
    chosen = stock.topk_positions(scores, torch.tensor([4, 2], dtype=torch.int32))
    assert [sorted(row) for row in chosen.tolist()] == [[1, 2, 3], [-1, 0, 1]], chosen
print([options["deterministic"] for options in asked])
"""


def test_deterministic_top_k_of_flashinfer():
    """FlashInfer itself needs a GPU: a stand-in takes its call."""
    argv = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(argv, env=cpu_env(os.environ, None), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[True, False]"
