"""The stock indexer's kernels on their own, without a server: the baseline of the kernel benchmark."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from sglang_hisa import PAGE
from sglang_hisa.patches.stock_kernels import (
    SglangKernels,
    flat_logits_fn,
    paged_logits_fn,
    schedule_fn,
    topk_fn,
)


def serverless_kernels(index_topk: int) -> SglangKernels:
    """SGLang's stock kernels, for rows that belong to no server."""
    import deep_gemm
    from sglang.srt.environ import envs
    from sglang.srt.layers.attention.dsa.dsa_topk_backend import DSATopKBackend

    if envs.SGLANG_DEEPGEMM_PDL.get():  # as deep_gemm_wrapper/entrypoint.py does in a server
        deep_gemm.set_pdl(True)
    indexer = SimpleNamespace(
        index_topk=index_topk,
        num_init_tokens=0,
        num_local_tokens=0,
        sm_count=torch.cuda.get_device_properties(0).multi_processor_count,
        _mask_init_and_local_tokens=lambda logits, lengths: None,
    )
    return SglangKernels(indexer, SimpleNamespace(topk_backend=DSATopKBackend.SGL_KERNEL))


class StockDecode:
    """DeepGEMM paged logits and top-k v2, as ``Indexer._get_topk_paged`` calls them."""

    def __init__(self, lengths: torch.Tensor, index_topk: int) -> None:
        from sglang.kernels.ops.attention.dsv4.topk import plan_topk_v2

        self.lengths, self.topk = lengths, index_topk
        self.lengths_2d = lengths[:, None].contiguous()
        sms = torch.cuda.get_device_properties(0).multi_processor_count
        self.schedule = schedule_fn()(self.lengths_2d, PAGE, sms)
        self.plan = plan_topk_v2(lengths)

    def logits(self, q: Any, weights: Any, index_k: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        pages = index_k.view(index_k.shape[0], PAGE, 1, -1)
        out = paged_logits_fn()(
            q.unsqueeze(1),
            pages,
            weights,
            self.lengths_2d,
            table,
            self.schedule,
            table.shape[1] * PAGE,
        )
        if out.shape[0] <= 1:
            out = out.as_strided(out.shape, ((out.shape[1] + 3) // 4 * 4, 1))
        return out

    def topk_slots(self, logits: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        out = logits.new_full((logits.shape[0], self.topk), -1, dtype=torch.int32)
        topk_fn()(logits, self.lengths, table, out, PAGE, self.plan)
        return out

    def __call__(self, q: Any, weights: Any, index_k: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        return self.topk_slots(self.logits(q, weights, index_k, table), table)


def _key_gather() -> Any:
    """SGLang's gather of a request's index keys, by its newer module or its older one."""
    try:
        from sglang.kernels.ops.kvcache.dsa_index_k_cache import GetKAndS
    except ModuleNotFoundError:
        from sglang.kernels.ops.attention.dsa.index_buf_accessor import GetKAndS
    return GetKAndS


class StockPrefill:
    """Gathered keys, DeepGEMM flat logits and fused top-k, as ``Indexer._get_topk_ragged`` calls them.

    One request of ``context`` tokens whose last ``rows`` tokens are the chunk.
    """

    def __init__(self, context: int, rows: int, index_topk: int, table: torch.Tensor) -> None:
        from sglang.kernels.ops.attention.dsv4.topk import plan_topk_v2

        device = table.device
        self.context, self.rows, self.topk, self.table = context, rows, index_topk, table
        self.starts = torch.zeros(rows, dtype=torch.int32, device=device)
        self.ends = torch.arange(context - rows + 1, context + 1, dtype=torch.int32, device=device)
        self.lengths = torch.tensor([context], dtype=torch.int32, device=device)
        slots = torch.arange(context, dtype=torch.int32, device=device)
        self.table_1 = (table[0][slots.long() // PAGE] * PAGE + slots % PAGE)[None].contiguous()
        self.cu_q = torch.tensor([0, rows], dtype=torch.int32, device=device)
        self.plan = plan_topk_v2(self.ends)

    def gather(self, index_k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pool = SimpleNamespace(page_size=PAGE, index_page_size=PAGE, index_head_dim=128, quant_block_size=128)
        keys, scales = _key_gather().execute(
            pool,
            index_k,
            page_indices=self.table,
            seq_len_tensor=self.lengths,
            seq_len_sum=self.context,
            max_seq_len=self.context,
        )
        return keys.view(torch.float8_e4m3fn), scales.view(torch.float32).squeeze(-1)

    def logits(self, q: Any, weights: Any, keys: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return flat_logits_fn()(q, (keys, scales), weights, self.starts, self.ends, max_seqlen_k=0)

    def topk_legacy(self, logits: torch.Tensor) -> torch.Tensor:
        """What ``DSATopKBackend.topk_transform`` calls for an extend step over a bf16 KV cache."""
        from sgl_kernel import fast_topk_transform_fused

        return fast_topk_transform_fused(
            score=logits,
            lengths=self.ends,
            page_table_size_1=self.table_1,
            cu_seqlens_q=self.cu_q,
            topk=self.topk,
            row_starts=self.starts,
        )

    def topk_v2(self, logits: torch.Tensor) -> torch.Tensor:
        """The newer top-k on the same rows, which older SGLangs use for decode only."""
        out = logits.new_full((self.rows, self.topk), -1, dtype=torch.int32)
        table = self.table.expand(self.rows, -1)
        topk_fn()(logits, self.ends, table, out, PAGE, self.plan)
        return out
