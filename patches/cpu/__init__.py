"""CPU stand-ins: real SGLang serves a DSA model on a CPU, for the demo and the tests.

Scheduler, radix cache, paged pools, DSA metadata, indexer projections and model code stay SGLang's own;
only leaf kernels that exist for CUDA alone are replaced, by plain PyTorch. Active with ``SGLANG_HISA_CPU=1``
(see :func:`sglang_hisa.launch.common.server.cpu_env`), whether HISA is on or not.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from sglang_hisa.config import cpu_stand_ins_requested, only_ours
from sglang_hisa.patches import contract, source
from sglang_hisa.patches.table import V17, V23, VERSIONS


@dataclass(frozen=True)
class StandIn:
    """A replaced attribute of SGLang (or torch), by version, and our function for it."""

    hook: str
    """``module:name`` below ``sglang_hisa.patches.cpu``."""
    targets: Mapping[str, str]
    why: str
    kind: str = "replace"


def _both(target: str) -> dict[str, str]:
    return dict.fromkeys(VERSIONS, target)


_INDEXER = "sglang.srt.layers.attention.dsa.dsa_indexer.Indexer"
_BACKEND = "sglang.srt.layers.attention.dsa_backend.DeepseekSparseAttnBackend"
_OPS = "sglang.kernels.ops"
_KEYS = {
    V17: f"{_OPS}.attention.dsa.index_buf_accessor",
    V23: f"{_OPS}.kvcache.dsa_index_k_cache",
}
_TOPK = f"{_OPS}.attention.dsv4.topk"
_GROUP = "sglang.srt.distributed.parallel_state.GroupCoordinator"
_UTILS = "sglang.srt.layers.attention.dsa.utils"


def _keys(name: str) -> dict[str, str]:
    return {version: f"{module}.{name}" for version, module in _KEYS.items()}


STAND_INS: tuple[StandIn, ...] = (
    StandIn(
        "indexer:device_capability",
        _both("torch.cuda.get_device_capability"),
        "argument resolution asks for a GPU; a Hopper is answered",
    ),
    StandIn(
        "indexer:synchronize",
        _both("torch.cuda.synchronize"),
        "the draft model waits for a GPU when it takes the target's embedding and head",
    ),
    StandIn("indexer:no_stream", _both("sglang.srt.runtime_context.get_stream"), "CUDA"),
    StandIn("indexer:after_init", _both(f"{_INDEXER}.__init__"), "sm_count is set on CUDA only", "after"),
    StandIn("indexer:forward_native", _both(f"{_INDEXER}.forward_native"), "the indexer has no CPU path"),
    StandIn(
        "indexer:topk_ragged", _both(f"{_INDEXER}._get_topk_ragged"), "stock asserts an indexed CUDA device"
    ),
    StandIn(
        "indexer:weights_proj",
        _both(f"{_INDEXER}._weights_proj_bf16_in_fp32_out"),
        "a CUDA GEMM with fp32 output",
    ),
    StandIn(
        "indexer:rotate_activation",
        _both("sglang.srt.layers.attention.dsa.dsa_indexer.rotate_activation"),
        "Hadamard transform in CUDA",
    ),
    StandIn(
        "fused:no_fused_store",
        {
            V17: f"{_OPS}.attention.fused_store_index_cache.can_use_dsa_fused_store",
            V23: f"{_OPS}.kvcache.dsa_fused_store_index_cache.can_use_dsa_fused_store",
        },
        "it compiles a CUDA kernel to find out",
    ),
    StandIn(
        "attention:flashmla_sparse",
        _both(f"{_BACKEND}._forward_flashmla_sparse"),
        "FlashMLA",
    ),
    StandIn(
        "attention:rope",
        _both(
            "sglang.srt.layers.rotary_embedding.rope_variant.DeepseekScalingRotaryEmbedding.forward_native"
        ),
        "stock's CPU rope does not take the indexer's 2-D key",
    ),
    StandIn(
        "attention:make_rope",
        _both("sglang.srt.layers.rotary_embedding.factory.get_rope_cpu"),
        "stock makes yarn rope only on a CPU; GLM-5 has none",
        "around",
    ),
    StandIn(
        "leaf:act_quant",
        {
            V17: f"{_OPS}.attention.dsa.triton_kernel.act_quant",
            V23: f"{_OPS}.quantization.act_quant_triton.act_quant",
        },
        "Triton (its CPU interpreter rounds fp8 wrongly)",
    ),
    StandIn("leaf:set_keys_and_scales", _keys("SetKAndS.execute"), "Triton"),
    StandIn("leaf:get_keys_and_scales", _keys("GetKAndS.execute"), "Triton"),
    StandIn(
        "leaf:transform_decode",
        _both(f"{_OPS}.attention.dsa.transform_index.transform_index_page_table_decode"),
        "Triton",
    ),
    StandIn(
        "leaf:transform_prefill",
        _both(f"{_OPS}.attention.dsa.transform_index.transform_index_page_table_prefill"),
        "Triton",
    ),
    StandIn(
        "speculative:expand_lengths",
        _both(f"{_OPS}.attention.pad.seqlens_expand_triton"),
        "it asserts a CUDA tensor",
    ),
    StandIn(
        "leaf:set_mla_kv_buffer",
        {V17: f"{_OPS}.kvcache.mla_buffer.set_mla_kv_buffer_triton"},
        "Triton with an integer mask, which the interpreter refuses",
    ),
    StandIn(
        "fp8_kv:quantise",
        {
            V17: f"{_OPS}.attention.dsa.quant_k_cache.quantize_k_cache_separate",
            V23: f"{_OPS}.quantization.dsa_quant_k_cache.quantize_k_cache_separate",
        },
        "Triton (its CPU interpreter rounds fp8 wrongly)",
    ),
    StandIn(
        "fp8_kv:dequantise",
        {
            V17: f"{_OPS}.attention.dsa.dequant_k_cache.dequantize_k_cache_paged",
            V23: f"{_OPS}.attention.dsa.dequant_k_cache.dequantize_k_cache_paged_dsa",
        },
        "Triton",
    ),
    StandIn("fp8_kv:flashmla_metadata", _both(f"{_BACKEND}._compute_flashmla_metadata"), "FlashMLA"),
    StandIn("fp8_kv:flashmla_kv", _both(f"{_BACKEND}._forward_flashmla_kv"), "FlashMLA"),
    StandIn("ranks:pageable", _both("torch.tensor"), "DP attention and LoRA ask for pinned memory", "around"),
    StandIn("ranks:all_gather", {V17: f"{_GROUP}.all_gather_into_tensor"}, "an operator for GPUs alone"),
    StandIn("ranks:reduce_scatter", {V17: f"{_GROUP}.reduce_scatter_tensor"}, "an operator for GPUs alone"),
    StandIn(
        "capture:create",
        _both("sglang.srt.state_capturer.indexer_topk.create_indexer_capturer"),
        "stock captures chosen tokens on CUDA only",
    ),
    StandIn(
        "capture:host_cache", _both("sglang.srt.state_capturer.base.BaseHostCache.__init__"), "pinned memory"
    ),
    StandIn(
        "hicache:no_host_register",
        _both("sglang.srt.mem_cache.pool_host.common._cuda_host_register"),
        "pinned memory",
    ),
    StandIn(
        "hicache:after_host_pool_init",
        _both("sglang.srt.mem_cache.pool_host.mla.MLATokenToKVPoolHost.__init__"),
        "pinned memory",
        "after",
    ),
    StandIn(
        "hicache:after_host_pool_init",
        {
            V17: "sglang.srt.mem_cache.memory_pool_host.DSAIndexerPoolHost.__init__",
            V23: "sglang.srt.mem_cache.pool_host.dsa.DSAIndexerPoolHost.__init__",
        },
        "pinned memory",
        "after",
    ),
    StandIn("leaf:no_synchronize", _both("torch.cuda.synchronize"), "retraction to the host waits for a GPU"),
    StandIn("topk:plan", _both(f"{_TOPK}.plan_topk_v2"), "CUDA"),
    StandIn(
        "topk:paged",
        {V17: f"{_TOPK}.topk_transform_512_v2", V23: f"{_TOPK}.topk_transform_paged_v2"},
        "CUDA",
    ),
    StandIn("topk:ragged", {V23: f"{_TOPK}.topk_transform_ragged_v2"}, "CUDA"),
    StandIn("mqa:flat_fn", {V23: f"{_UTILS}.resolve_fp8_mqa_logits_fn"}, "DeepGEMM"),
    StandIn("mqa:paged_fn", {V23: f"{_UTILS}.resolve_fp8_paged_mqa_logits_fn"}, "DeepGEMM"),
    StandIn("mqa:schedule_fn", {V23: f"{_UTILS}.resolve_paged_mqa_logits_metadata_fn"}, "DeepGEMM"),
    StandIn("mqa:num_sms", {V23: f"{_UTILS}.resolve_num_sms"}, "DeepGEMM"),
)


def rows_for(version: str) -> list[tuple[StandIn, str]]:
    """Rows of the table that ``version`` needs, each with its target."""
    return [(row, row.targets[version]) for row in STAND_INS if version in row.targets]


def _stop(version: str, problems: list[str], fix: str) -> NoReturn:
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise SystemExit(
        f"sglang-hisa: refusing to start: the CPU stand-ins do not fit SGLang {version} "
        f"(supported: {', '.join(VERSIONS)})\n{lines}\nFix: {fix}\n"
        "Unset SGLANG_HISA_CPU to serve without them."
    )


def _hook(row: StandIn) -> Any:
    module, name = row.hook.split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def _unresolved(rows: list[tuple[StandIn, str]]) -> list[str]:
    """One problem for each target or hook that cannot be found."""
    problems = []
    for row, target in rows:
        try:
            pkgutil.resolve_name(target)
            _hook(row)
        except Exception as error:  # whatever an import raises, SGLang would only log it and go on unpatched
            problems.append(f"{target}: {type(error).__name__}: {error}")
    return problems


def register() -> None:
    """Entry point: register the stand-ins if ``SGLANG_HISA_CPU=1``.

    Raises:
        SystemExit: a target is missing or was not patched (SGLang would only log that).
    """
    if not cpu_stand_ins_requested():
        return
    version = contract.installed_version() or "none"
    found = contract.unfit()
    if found is not None and not found.compared:
        _stop(version, list(found.reasons), found.fix)
    rows = rows_for(version)
    problems = _unresolved(rows)
    if problems:
        _stop(version, problems, source.replacement(contract.installed_root(), version))
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    from sglang_hisa.patches.cpu import fp8_kv, fused, hicache, mqa, ranks

    mqa.install_deep_gemm()
    fused.install()
    hicache.install()
    ranks.install()
    fp8_kv.install()
    for row, target in rows:
        HookRegistry.register(target, _hook(row), HookType(row.kind))

    apply = HookRegistry.apply_hooks

    def apply_and_verify() -> None:
        apply()
        missed = [target for _, target in rows if target not in HookRegistry._patched]
        if missed:
            missed = [f"{target}: SGLang could not apply the hook (see its log)" for target in missed]
            _stop(version, missed, f"load no other plugins: {only_ours(cpu=True)}")

    # Not called here: hooks of plugins loaded after us on the same targets must still be applied.
    HookRegistry.apply_hooks = staticmethod(apply_and_verify)
