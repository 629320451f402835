"""Every place where HISA touches SGLang, as data: what, how, with which parameters, and why.

`hisa doctor`, the start-up check, the contract test and docs/supported.md all read this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sglang_hisa.config import Config

V17, V23 = "0.5.17", "0.5.23"
VERSIONS = (V17, V23)

_DSA = "sglang.srt.layers.attention.dsa.dsa_indexer"
_POOL = "sglang.srt.mem_cache.memory_pool.DSATokenToKVPool"


@dataclass(frozen=True)
class Patch:
    """One patched attribute of SGLang."""

    target: str
    """Dotted path, module then qualified name."""
    kind: str
    """SGLang hook type: before, after or around."""
    hook: str
    """Our function, ``module:name`` below ``sglang_hisa.patches``."""
    params: Mapping[str, tuple[str, ...]]
    """Exact parameter names by SGLang version; a version without an entry has no such target."""
    why: str
    callers: tuple[tuple[str, str], ...] = ()
    """(source file, expression) through which SGLang must reach the attribute, in every version."""
    setting: str = ""
    """Key of the configuration that must not be off for the patch to be applied; empty: always applied."""

    def applies(self, config: Config) -> bool:
        return not self.setting or getattr(config, self.setting) not in ("off", False)


def _both(*names: str) -> dict[str, tuple[str, ...]]:
    return {V17: names, V23: names}


_HOST_LOAD = ("self", "device_pool", "host_indices", "device_indices", "layer_id", "io_backend")
_PAGED = ("self", "forward_batch", "layer_id", "q_fp8", "weights", "metadata")
_IDX_FILE = "srt/layers/attention/dsa/dsa_indexer.py"
_GRAPHS_FILE = "srt/model_executor/runner/decode_cuda_graph_runner.py"
_PREFILL_GRAPHS_FILE = "srt/model_executor/runner/prefill_cuda_graph_runner.py"
_DECODE_MIXIN = "sglang.srt.disaggregation.decode_schedule_batch_mixin"
_HICACHE = "srt/mem_cache/hybrid_cache"
_HOST_LOAD_WHY = "reseal the pages of each layer that HiCache brought from the host, before readers go on"
_DECODE_GRAPHS = "sglang.srt.model_executor.runner.decode_cuda_graph_runner.DecodeCudaGraphRunner"

PATCHES: tuple[Patch, ...] = (
    Patch(
        f"{_DSA}.Indexer.__init__",
        "after",
        "indexer:after_init",
        _both(
            *("self", "hidden_size", "index_n_heads", "index_head_dim", "rope_head_dim", "index_topk"),
            *("q_lora_rank", "max_position_embeddings", "rope_theta", "layer_id", "scale_fmt"),
            *("block_size", "rope_scaling", "is_neox_style", "prefix", "quant_config", "alt_stream"),
            "config",
        ),
        "check the budget against index_topk and count the layers that HISA serves",
        (("srt/models/deepseek_v2.py", "from sglang.srt.layers.attention.dsa.dsa_indexer import Indexer"),),
    ),
    Patch(
        f"{_DSA}.Indexer._get_topk_paged",
        "around",
        "indexer:around_topk_paged",
        _both(*_PAGED),
        "decode, verify and draft-extend rows choose from their candidate pages",
        ((_IDX_FILE, "self._get_topk_paged("),),
    ),
    Patch(
        f"{_DSA}.Indexer._get_topk_ragged",
        "around",
        "indexer:around_topk_ragged",
        _both(
            *("self", "enable_dual_stream", "forward_batch", "layer_id", "q_fp8", "weights"),
            *("metadata", "topk_result"),
        ),
        "prefill rows choose from their candidate pages",
        (
            (_IDX_FILE, "self._get_topk_ragged("),
            ("srt/layers/attention/dsa/dsa_prefill_cuda_graph.py", "indexer._get_topk_ragged("),
        ),
    ),
    Patch(
        f"{_DSA}.Indexer._store_index_k_cache",
        "after",
        "indexer:after_store",
        _both("self", "forward_batch", "layer_id", "key", "act_quant", "out_cache_loc"),
        "seal the pages that this store completed",
        (
            (_IDX_FILE, "self._store_index_k_cache("),
            ("srt/layers/attention/dsa/dsa_prefill_cuda_graph.py", "indexer._store_index_k_cache("),
        ),
    ),
    Patch(
        f"{_DSA}.Indexer._fused_k_prepare_and_store",
        "after",
        "indexer:after_fused_store",
        _both(
            *("self", "key_raw", "positions", "forward_batch", "layer_id", "act_quant"),
            "out_cache_loc",
        ),
        "seal the pages that the fused norm-rope-store completed (GLM-5)",
        ((_IDX_FILE, "self._fused_k_prepare_and_store("),),
    ),
    Patch(
        "sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new",
        "after",
        "batch:after_init_new",
        {
            V17: ("cls", "batch", "model_runner", "capture_hidden_mode", "return_hidden_states_before_norm"),
            V23: (
                *("cls", "batch", "model_runner", "capture_hidden_mode"),
                *("return_hidden_states_before_norm", "extend_position_info", "spec_mrope_positions"),
                *("kv_loc_plan", "write_cols"),
            ),
        },
        "know which rows end their prompt, since they have a budget of their own, and which are decode rows",
        (
            # The batch of a prefill graph is known by the list that it shares with the one that was built.
            (_PREFILL_GRAPHS_FILE, "extend_seq_lens_cpu=forward_batch.extend_seq_lens_cpu,"),
            (
                "srt/model_executor/cuda_graph_buffer_registry.py",
                "dataclasses.replace(forward_batch_template,",
            ),
            ("srt/managers/scheduler.py", "new_batch.decoding_reqs = running_batch.reqs"),
        ),
    ),
    Patch(
        "sglang.srt.model_executor.model_runner.ModelRunner.forward",
        "around",
        "canary:around_forward",
        _both(
            *("self", "forward_batch", "skip_attn_backend_init", "pp_proxy_tensors"),
            *("reinit_attn_backend", "split_forward_count"),
        ),
        'compare summaries with their rebuild after each forward; only with "canary" on',
        (("srt/managers/tp_worker.py", "self.model_runner.forward("),),
        setting="canary",
    ),
    Patch(
        f"{_DECODE_GRAPHS}.capture_one_shape",
        "around",
        "decode_graphs:around_capture",
        {
            V17: ("self", "size", "forward", "stream_idx", "variant_label"),
            V23: ("self", "size", "forward", "stream_idx", "variant_label", "attention_variant"),
        },
        "capture each decode size with stock DSA as well, for steps whose rows all fit their budget",
        ((_GRAPHS_FILE, "self.capture_one_shape("),),
        setting="stock_decode_graphs",
    ),
    Patch(
        f"{_DECODE_GRAPHS}._resolve_lora_variant",
        "around",
        "decode_graphs:around_variant",
        _both("self", "forward_batch"),
        "replay that graph where pruning would not pay",
        ((_GRAPHS_FILE, "self._resolve_lora_variant(forward_batch)"),),
        setting="stock_decode_graphs",
    ),
    Patch(
        f"{_POOL}.__init__",
        "after",
        "pool:after_init",
        {
            V17: (
                *("self", "size", "page_size", "kv_lora_rank", "dtype", "qk_rope_head_dim", "layer_num"),
                *("device", "index_head_dim", "enable_memory_saver", "kv_cache_dim", "start_layer"),
                *("end_layer", "index_buf_size"),
            ),
            V23: (
                *("self", "size", "page_size", "kv_lora_rank", "dtype", "qk_rope_head_dim", "layer_num"),
                *("device", "index_head_dim", "enable_memory_saver", "kv_cache_dim", "start_layer"),
                *("end_layer", "index_buf_size", "index_kpool", "index_kpool_compress"),
                *("tail_extra_slots", "max_running_requests", "skip_topk_layers", "dcp_replicated"),
            ),
        },
        "allocate the page summaries beside the index-K buffers",
    ),
    Patch(
        f"{_POOL}._clear_buffers",
        "after",
        "pool:after_clear",
        _both("self"),
        "drop the summaries with the buffers that they describe",
    ),
    Patch(
        f"{_POOL}.get_kv_size_bytes",
        "after",
        "pool:after_size",
        _both("self"),
        "count the summaries in the memory log",
    ),
    Patch(
        f"{_POOL}.load_cpu_copy",
        "after",
        "pool:after_load_cpu_copy",
        {
            V17: ("self", "kv_cache_cpu_dict", "indices", "mamba_indices"),
            V23: ("self", "kv_cache_cpu_dict", "indices", "mamba_indices", "req_pool_index"),
        },
        "reseal pages whose index keys came back from the host after a retraction",
    ),
    Patch(
        "sglang.srt.managers.cache_controller.LayerDoneCounter.update_producer",
        "before",
        "pool:before_loading",
        {V17: ("self",)},
        "load from the host only after the step in flight, which may still store to the pages",
        (
            (f"{_HICACHE}/hybrid_cache_controller.py", "self.layer_done_counter.update_producer()"),
            (f"{_HICACHE}/hybrid_cache_controller.py", "producer_event.start_event.wait(self.load_stream)"),
        ),
    ),
    Patch(
        "sglang.srt.mem_cache.memory_pool_host.DSAIndexerPoolHost.load_to_device_per_layer",
        "after",
        "pool:after_host_load",
        {V17: _HOST_LOAD},
        _HOST_LOAD_WHY,
        (
            ("srt/mem_cache/memory_pool_host.py", "entry.host_pool.load_to_device_per_layer("),
            (f"{_HICACHE}/hybrid_cache_controller.py", "self.mem_pool_host.load_to_device_per_layer("),
            (f"{_HICACHE}/hybrid_pool_assembler.py", "DSAIndexerPoolHost("),
        ),
    ),
    Patch(
        "sglang.srt.mem_cache.pool_host.dsa.DSAIndexerPoolHost.load_to_device_per_layer",
        "after",
        "pool:after_host_load",
        {V23: (*_HOST_LOAD, "is_draft")},
        _HOST_LOAD_WHY,
        (
            ("srt/mem_cache/l2_transfer.py", "transfer.host_pool.load_to_device_per_layer_physical("),
            ("srt/mem_cache/pool_host/base.py", "self.load_to_device_per_layer("),
            ("srt/mem_cache/memory_pool.py", "make_dsa_indexer_pool_decl("),
        ),
    ),
    Patch(
        "sglang.srt.mem_cache.storage.backend_factory.StorageBackendFactory.create_backend",
        "after",
        "storage:after_create",
        _both("cls", "backend_name", "storage_config", "mem_pool_host", "kwargs"),
        "HiCache storage: keys name the settings that computed the pages, so that no other server takes them",
        (("srt/managers/cache_controller.py", "StorageBackendFactory.create_backend("),),
    ),
    Patch(
        f"{_DECODE_MIXIN}.ScheduleBatchDisaggregationDecodeMixin.prepare_for_prebuilt",
        "after",
        "pool:after_prebuilt",
        _both("self"),
        "reseal pages that a prefill server sent: their first forward here is a decode step",
        (
            ("srt/disaggregation/decode.py", "new_batch.prepare_for_prebuilt()"),
            ("srt/managers/schedule_batch.py", "ScheduleBatchDisaggregationDecodeMixin"),
        ),
    ),
    Patch(
        f"{_POOL}.move_kv_cache",
        "around",
        "pool:around_move",
        _both("self", "tgt_loc", "src_loc"),
        "reseal moved pages (0.5.23); refuse 0.5.17's move, which indexes pages by token",
    ),
    Patch(
        "sglang.srt.model_executor.pool_configurator.DefaultPoolConfigurator._compute_cell_size",
        "after",
        "pool:after_cell_size",
        {V17: ("self", "kvc", "num_layers")},
        "count the summaries in the size of the KV pool",
    ),
    Patch(
        "sglang.srt.model_executor.pool_configurator.DefaultPoolConfigurator._compute_dsa_indexer_cell_size",
        "after",
        "pool:after_indexer_cell_size",
        {V23: ("self", "kvc", "num_layers", "allocate_all_layers")},
        "count the summaries in the size of the KV pool",
    ),
    Patch(
        "sglang.srt.managers.scheduler.Scheduler.__init__",
        "around",
        "scheduler:around_init",
        {
            V17: (
                *("self", "server_args", "port_args", "gpu_id", "tp_rank", "moe_ep_rank", "pp_rank"),
                *("attn_cp_rank", "moe_dp_rank", "dp_rank"),
            ),
            V23: ("self", "server_args", "port_args"),
        },
        "decline unsupported features before the model loads; then rehearse prefill and write the receipt",
        (("srt/managers/scheduler.py", "Scheduler("),),
    ),
    Patch(
        "sglang.srt.managers.scheduler.Scheduler.on_idle",
        "before",
        "scheduler:before_idle",
        _both("self"),
        "bring metrics up to date when no step follows",
        (("srt/managers/scheduler.py", "self.on_idle()"),),
    ),
    Patch(
        "sglang.srt.managers.scheduler.Scheduler.get_internal_state",
        "after",
        "scheduler:after_internal_state",
        _both("self", "recv_req"),
        "show the receipt in /server_info",
        (("srt/managers/scheduler.py", "self.get_internal_state"),),
    ),
)


@dataclass(frozen=True)
class Use:
    """A name of SGLang that HISA calls or reads without patching it."""

    target: str
    params: Mapping[str, tuple[str, ...]]


_TOPK = "sglang.kernels.ops.attention.dsv4.topk"
_MODE = "sglang.srt.model_executor.forward_batch_info.ForwardMode"
_ATTENTION = "sglang.srt.layers.attention.dsa_backend.DeepseekSparseAttnBackend"
_META = "sglang.srt.layers.attention.dsa.dsa_indexer_metadata.DSAIndexerMetadata"

USES: tuple[Use, ...] = (
    Use("sglang.srt.utils.hf_transformers.config.get_config", {}),
    Use("sglang.srt.configs.hybrid_arch.mambaish_config", _both("model_config")),
    Use("sglang.srt.configs.linear_attn_model_registry.get_linear_attn_config", _both("hf_config")),
    Use("sglang.srt.runtime_context.get_device", {V23: ()}),
    Use(f"{_DSA}.get_token_to_kv_pool", {}),
    Use(f"{_DSA}.Indexer._mask_init_and_local_tokens", _both("self", "logits", "lengths", "row_starts")),
    Use(f"{_DSA}.Indexer._with_real_sm_count", _both("self")),
    Use(f"{_POOL}.get_index_k_with_scale_buffer", _both("self", "layer_id")),
    Use(f"{_META}.get_seqlens_int32", _both("self")),
    Use(f"{_META}.get_seqlens_expanded", _both("self")),
    Use(f"{_META}.get_page_table_64", _both("self")),
    Use(f"{_META}.get_token_to_batch_idx", _both("self")),
    Use(f"{_META}.get_dsa_extend_len_cpu", _both("self")),
    Use(f"{_ATTENTION}.get_topk_transform_method", _both("self", "forward_mode")),
    Use(f"{_MODE}.is_decode", _both("self")),
    Use(f"{_MODE}.is_idle", _both("self")),
    Use(f"{_MODE}.is_target_verify", _both("self")),
    Use(f"{_MODE}.is_draft_extend_v2", _both("self")),
    Use(f"{_MODE}.is_extend_without_speculative", _both("self")),
    Use(
        "sglang.srt.layers.attention.dsa.dsa_topk_backend.DSATopKBackend.topk_func",
        _both("self", "score", "lengths", "topk", "row_starts"),
    ),
    Use(
        f"{_TOPK}.plan_topk_v2",
        {V17: ("seq_lens", "static_threshold"), V23: ("seq_lens", "static_threshold", "out")},
    ),
    Use(
        f"{_TOPK}.topk_transform_512_v2",
        {
            V17: (
                *("scores", "seq_lens", "page_tables", "out_page_indices", "page_size", "metadata"),
                "out_raw_indices",
            )
        },
    ),
    Use(
        f"{_TOPK}.topk_transform_paged_v2",
        {
            V23: (
                *("scores", "seq_lens", "page_tables", "out_page_indices", "page_size", "metadata"),
                "out_raw_indices",
            )
        },
    ),
)


def patches_for(version: str) -> list[Patch]:
    """Rows of the table that apply to ``version``."""
    return [patch for patch in PATCHES if version in patch.params]
