"""CPU stand-ins: real SGLang serves a DSA model on a CPU, for the demo and the tests.

Scheduler, radix cache, paged pools, DSA metadata, indexer projections and model code stay SGLang's own;
only leaf kernels that exist for CUDA alone are replaced, by plain PyTorch, and its processes are forked, so
that a server starts within seconds. Active with ``SGLANG_HISA_CPU=1``
(see :func:`sglang_hisa.launch.common.server.cpu_env`), whether HISA is on or not.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sglang_hisa.config import cpu_stand_ins_requested, only_ours
from sglang_hisa.patches import contract, source, syntax
from sglang_hisa.patches.releases import NEWEST, RELEASES


@dataclass(frozen=True)
class StandIn:
    """A replaced attribute of SGLang, torch or Python, and our function for it."""

    hook: str
    """``module:name`` below ``sglang_hisa.patches.cpu``."""
    targets: tuple[str, ...]
    """Where it is, newest first; the first that an SGLang has is replaced."""
    why: str
    kind: str = "replace"
    optional: bool = False
    """Whether an SGLang may lack it."""
    unless: str = ""
    """Code of the original with which it runs on a CPU itself."""


_INDEXER = "sglang.srt.layers.attention.dsa.dsa_indexer.Indexer"
_BACKEND = "sglang.srt.layers.attention.dsa_backend.DeepseekSparseAttnBackend"
_OPS = "sglang.kernels.ops"
_KEYS = (f"{_OPS}.kvcache.dsa_index_k_cache", f"{_OPS}.attention.dsa.index_buf_accessor")
_TOPK = f"{_OPS}.attention.dsv4.topk"
_GROUP = "sglang.srt.distributed.parallel_state.GroupCoordinator"
_UTILS = "sglang.srt.layers.attention.dsa.utils"


def _keys(name: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for module in _KEYS)


STAND_INS: tuple[StandIn, ...] = (
    StandIn(
        "processes:forked",
        ("multiprocessing.set_start_method",),
        "a process that is spawned imports SGLang again: two thirds of a server's start",
        "around",
    ),
    StandIn(
        "indexer:device_capability",
        ("torch.cuda.get_device_capability",),
        "argument resolution asks for a GPU; a Hopper is answered",
    ),
    StandIn(
        "indexer:synchronize",
        ("torch.cuda.synchronize",),
        "the draft model waits for a GPU when it takes the target's embedding and head",
    ),
    StandIn("indexer:no_stream", ("sglang.srt.runtime_context.get_stream",), "CUDA"),
    StandIn("indexer:after_init", (f"{_INDEXER}.__init__",), "sm_count is set on CUDA only", "after"),
    StandIn("indexer:forward_native", (f"{_INDEXER}.forward_native",), "the indexer has no CPU path"),
    StandIn("indexer:topk_ragged", (f"{_INDEXER}._get_topk_ragged",), "stock asserts an indexed CUDA device"),
    StandIn(
        "indexer:weights_proj",
        (f"{_INDEXER}._weights_proj_bf16_in_fp32_out",),
        "a CUDA GEMM with fp32 output",
    ),
    StandIn(
        "indexer:rotate_activation",
        ("sglang.srt.layers.attention.dsa.dsa_indexer.rotate_activation",),
        "Hadamard transform in CUDA",
    ),
    StandIn(
        "fused:no_fused_store",
        (
            f"{_OPS}.kvcache.dsa_fused_store_index_cache.can_use_dsa_fused_store",
            f"{_OPS}.attention.fused_store_index_cache.can_use_dsa_fused_store",
        ),
        "it compiles a CUDA kernel to find out",
    ),
    StandIn(
        "attention:flashmla_sparse",
        (f"{_BACKEND}._forward_flashmla_sparse",),
        "FlashMLA",
    ),
    StandIn(
        "attention:rope",
        ("sglang.srt.layers.rotary_embedding.rope_variant.DeepseekScalingRotaryEmbedding.forward_native",),
        "stock's CPU rope does not take the indexer's 2-D key",
    ),
    StandIn(
        "attention:make_rope",
        ("sglang.srt.layers.rotary_embedding.factory.get_rope_cpu",),
        "stock makes yarn rope only on a CPU; GLM-5 has none",
        "around",
    ),
    StandIn(
        "leaf:act_quant",
        (f"{_OPS}.quantization.act_quant_triton.act_quant", f"{_OPS}.attention.dsa.triton_kernel.act_quant"),
        "Triton (its CPU interpreter rounds fp8 wrongly)",
    ),
    StandIn("leaf:set_keys_and_scales", _keys("SetKAndS.execute"), "Triton"),
    StandIn("leaf:get_keys_and_scales", _keys("GetKAndS.execute"), "Triton"),
    StandIn(
        "leaf:transform_decode",
        (f"{_OPS}.attention.dsa.transform_index.transform_index_page_table_decode",),
        "Triton",
    ),
    StandIn(
        "leaf:transform_prefill",
        (f"{_OPS}.attention.dsa.transform_index.transform_index_page_table_prefill",),
        "Triton",
    ),
    StandIn(
        "speculative:expand_lengths",
        (f"{_OPS}.attention.pad.seqlens_expand_triton",),
        "it asserts a CUDA tensor",
    ),
    StandIn(
        "leaf:set_mla_kv_buffer",
        (
            f"{_OPS}.kvcache.mla_buffer._set_mla_kv_buffer_impl",
            f"{_OPS}.kvcache.mla_buffer.set_mla_kv_buffer_triton",
        ),
        "Triton with an integer mask, which the interpreter of older ones refuses",
    ),
    StandIn(
        "fp8_kv:quantise",
        (
            f"{_OPS}.quantization.dsa_quant_k_cache.quantize_k_cache_separate",
            f"{_OPS}.attention.dsa.quant_k_cache.quantize_k_cache_separate",
        ),
        "Triton (its CPU interpreter rounds fp8 wrongly)",
    ),
    StandIn(
        "fp8_kv:dequantise",
        (
            f"{_OPS}.attention.dsa.dequant_k_cache.dequantize_k_cache_paged_dsa",
            f"{_OPS}.attention.dsa.dequant_k_cache.dequantize_k_cache_paged",
        ),
        "Triton",
    ),
    StandIn("fp8_kv:flashmla_metadata", (f"{_BACKEND}._compute_flashmla_metadata",), "FlashMLA"),
    StandIn("fp8_kv:flashmla_kv", (f"{_BACKEND}._forward_flashmla_kv",), "FlashMLA"),
    StandIn("ranks:pageable", ("torch.tensor",), "DP attention and LoRA ask for pinned memory", "around"),
    StandIn(
        "ranks:all_gather",
        (f"{_GROUP}.all_gather_into_tensor",),
        "an operator for GPUs alone",
        unless="_is_cpu",
    ),
    StandIn(
        "ranks:reduce_scatter",
        (f"{_GROUP}.reduce_scatter_tensor",),
        "an operator for GPUs alone",
        unless="_is_cpu",
    ),
    StandIn(
        "capture:create",
        ("sglang.srt.state_capturer.indexer_topk.create_indexer_capturer",),
        "stock captures chosen tokens on CUDA only",
    ),
    StandIn(
        "capture:host_cache", ("sglang.srt.state_capturer.base.BaseHostCache.__init__",), "pinned memory"
    ),
    StandIn(
        "hicache:no_host_register",
        ("sglang.srt.mem_cache.pool_host.common._cuda_host_register",),
        "pinned memory",
    ),
    StandIn(
        "hicache:after_host_pool_init",
        ("sglang.srt.mem_cache.pool_host.mla.MLATokenToKVPoolHost.__init__",),
        "pinned memory",
        "after",
    ),
    StandIn(
        "hicache:after_host_pool_init",
        (
            "sglang.srt.mem_cache.pool_host.dsa.DSAIndexerPoolHost.__init__",
            "sglang.srt.mem_cache.memory_pool_host.DSAIndexerPoolHost.__init__",
        ),
        "pinned memory",
        "after",
    ),
    StandIn("leaf:no_synchronize", ("torch.cuda.synchronize",), "retraction to the host waits for a GPU"),
    StandIn("topk:plan", (f"{_TOPK}.plan_topk_v2",), "CUDA"),
    StandIn(
        "topk:paged",
        (f"{_TOPK}.topk_transform_paged_v2", f"{_TOPK}.topk_transform_512_v2"),
        "CUDA",
    ),
    StandIn("topk:ragged", (f"{_TOPK}.topk_transform_ragged_v2",), "CUDA", optional=True),
    StandIn("mqa:flat_fn", (f"{_UTILS}.resolve_fp8_mqa_logits_fn",), "DeepGEMM", optional=True),
    StandIn("mqa:paged_fn", (f"{_UTILS}.resolve_fp8_paged_mqa_logits_fn",), "DeepGEMM", optional=True),
    StandIn(
        "mqa:schedule_fn", (f"{_UTILS}.resolve_paged_mqa_logits_metadata_fn",), "DeepGEMM", optional=True
    ),
    StandIn("mqa:num_sms", (f"{_UTILS}.resolve_num_sms",), "DeepGEMM", optional=True),
)


def _has(root: Path, target: str) -> bool:
    return not target.startswith("sglang.") or syntax.locate(root, target)[1] is not None


def _runs_on_a_cpu(root: Path, row: StandIn, target: str) -> bool:
    node = syntax.function(root, target) if row.unless else None
    return node is not None and row.unless in syntax.text(node)


def rows_for(root: Path) -> list[tuple[StandIn, str]]:
    """Rows of the table that the SGLang in ``root`` needs, each with its target."""
    found = []
    for row in STAND_INS:
        targets = [target for target in row.targets if _has(root, target)]
        if not targets and not row.optional:
            targets = [row.targets[0]]  # inherited, or gone: whoever resolves it finds out
        if targets and not _runs_on_a_cpu(root, row, targets[0]):
            found.append((row, targets[0]))
    return found


def _stop(version: str, problems: list[str], fix: str) -> NoReturn:
    lines = "\n".join(f"  - {problem}" for problem in problems)
    raise SystemExit(
        f"sglang-hisa: refusing to start: the CPU stand-ins do not fit SGLang {version} "
        f"(written for {RELEASES[0]} to {NEWEST})\n{lines}\nFix: {fix}\n"
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
    root = contract.installed_root()
    rows = rows_for(root)
    syntax.forget()
    problems = _unresolved(rows)
    if problems:
        _stop(version, problems, source.replacement(root, version if version in RELEASES else NEWEST))
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
