"""Every place where HISA touches SGLang, as data: what, how, what it needs there, and why.

`hisa doctor`, the start-up check, the contract test and docs/supported.md all read this table. No row names a
version: a row lists where releases have its attribute, and the check takes the first place that fits.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_hisa.config import Config

_DSA = "sglang.srt.layers.attention.dsa.dsa_indexer"
_POOL = "sglang.srt.mem_cache.memory_pool.DSATokenToKVPool"


@dataclass(frozen=True)
class Place:
    """An attribute of SGLang, and what makes it the one that a row means."""

    target: str
    """Dotted path, module then qualified name."""
    params: tuple[str, ...] | None = None
    """Parameters that HISA passes or takes, in SGLang's order: ``name?`` may be missing, ``*`` stands for any
    number of others. None: not a function, or none matters."""
    callers: tuple[tuple[str, str], ...] = ()
    """(source file, expression) through which SGLang must reach the attribute."""


@dataclass(frozen=True)
class Probe:
    """A behaviour of SGLang that its source shows."""

    what: str
    targets: tuple[str, ...]
    """Functions that may show it, by the names that they have had."""
    parameter: str = ""
    """A parameter that one of them has."""
    text: str = ""
    """Code in the body of one of them. Neither: one of them exists."""


@dataclass(frozen=True)
class Patch:
    """One patched attribute of SGLang."""

    kind: str
    """SGLang hook type: before, after or around."""
    hook: str
    """Our function, ``module:name`` below ``sglang_hisa.patches``."""
    why: str
    places: tuple[Place, ...]
    """Where the attribute is, newest first."""
    relies: str = ""
    """What HISA takes for granted inside: the body must be a known one (:mod:`.bodies`). Empty: nothing."""
    setting: str = ""
    """Key of the configuration that must not be off for the patch to be applied; empty: always applied."""
    only: str = ""
    """Behaviour (a key of ``BEHAVIOURS``) with which alone the patch is applied."""
    unless: str = ""
    """Behaviour with which it is not."""

    def applies(self, config: Config) -> bool:
        return not self.setting or getattr(config, self.setting) not in ("off", False)


@dataclass(frozen=True)
class Use:
    """A name of SGLang that HISA calls, reads or relies on without patching it."""

    places: tuple[Place, ...]
    relies: str = ""
    """As in :class:`Patch`."""
    optional: bool = False
    """Whether SGLang may lack it."""


Row = Patch | Use

FENCED_LOADS = "fenced loads"
DRAFT_LOADS = "draft loads"
TOKEN_MOVES = "token moves"
INDEXER_CELLS = "indexer cells"
GPU_ARGUMENT = "gpu argument"

_HICACHE_CONTROLLER = "sglang.srt.managers.cache_controller.HiCacheController"
_HOST_POOL = (
    "sglang.srt.mem_cache.pool_host.dsa.DSAIndexerPoolHost.load_to_device_per_layer",
    "sglang.srt.mem_cache.memory_pool_host.DSAIndexerPoolHost.load_to_device_per_layer",
)
_CELLS = "sglang.srt.model_executor.pool_configurator.DefaultPoolConfigurator"
_MOVE = "sglang.srt.mem_cache.index_key_cache.IndexKeyCache.move"
_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"

BEHAVIOURS: dict[str, Probe] = {
    FENCED_LOADS: Probe(
        "HiCache loads pages only after the step in flight",
        (f"{_HICACHE_CONTROLLER}.start_loading",),
        text="self.load_fence_stream",
    ),
    DRAFT_LOADS: Probe("HiCache keeps the index keys of draft models", _HOST_POOL, parameter="is_draft"),
    TOKEN_MOVES: Probe("index keys are moved token by token", (_MOVE,), text="tgt_loc_flat // page_size"),
    INDEXER_CELLS: Probe(
        "the size of index keys in the KV pool has a function of its own",
        (f"{_CELLS}._compute_dsa_indexer_cell_size",),
    ),
    GPU_ARGUMENT: Probe("the scheduler is told its GPU", (f"{_SCHEDULER}.__init__",), parameter="gpu_id"),
}
"""What differs between SGLangs and decides what HISA does, by the name that our code asks for."""

_PAGED = ("self", "forward_batch", "layer_id", "q_fp8", "weights", "metadata")
_HOST_LOAD = (
    *("self", "device_pool", "host_indices", "device_indices", "layer_id", "io_backend"),
    "is_draft?",
)
_IDX_FILE = "srt/layers/attention/dsa/dsa_indexer.py"
_SPLIT_FILE = "srt/layers/attention/dsa/dsa_prefill_cuda_graph.py"
_GRAPHS_FILE = "srt/model_executor/runner/decode_cuda_graph_runner.py"
_PREFILL_GRAPHS_FILE = "srt/model_executor/runner/prefill_cuda_graph_runner.py"
_CONTROLLER_FILE = "srt/managers/cache_controller.py"
_TRANSFER_FILE = "srt/mem_cache/l2_transfer.py"
_DECODE_MIXIN = "sglang.srt.disaggregation.decode_schedule_batch_mixin"
_HICACHE = "srt/mem_cache/hybrid_cache"
_ASSEMBLER = (f"{_HICACHE}/hybrid_pool_assembler.py", "DSAIndexerPoolHost(")
_DECODE_GRAPHS = "sglang.srt.model_executor.runner.decode_cuda_graph_runner.DecodeCudaGraphRunner"
_COUNTER = "sglang.srt.managers.cache_controller.LayerDoneCounter.update_producer"

PATCHES: tuple[Patch, ...] = (
    Patch(
        "after",
        "indexer:after_init",
        "check the budget against index_topk and count the layers that HISA serves",
        (
            Place(
                f"{_DSA}.Indexer.__init__",
                ("self", "*", "layer_id", "*", "config", "*"),
                (("srt/models/deepseek_v2.py", f"from {_DSA} import Indexer"),),
            ),
        ),
    ),
    Patch(
        "around",
        "indexer:around_topk_paged",
        "decode, verify and draft-extend rows choose from their candidate pages",
        (Place(f"{_DSA}.Indexer._get_topk_paged", _PAGED, ((_IDX_FILE, "self._get_topk_paged("),)),),
        relies="which lengths and which page table its rows have, and how padded rows are filled",
    ),
    Patch(
        "around",
        "indexer:around_topk_ragged",
        "prefill rows choose from their candidate pages",
        (
            Place(
                f"{_DSA}.Indexer._get_topk_ragged",
                (
                    *("self", "enable_dual_stream", "forward_batch", "layer_id", "q_fp8", "weights"),
                    *("metadata", "topk_result"),
                ),
                (
                    (_IDX_FILE, "self._get_topk_ragged("),
                    (_SPLIT_FILE, "indexer._get_topk_ragged("),
                ),
            ),
        ),
        relies="which keys its rows see, in which order, and what is written to topk_result",
    ),
    Patch(
        "after",
        "indexer:after_store",
        "seal the pages that this store completed",
        (
            Place(
                f"{_DSA}.Indexer._store_index_k_cache",
                ("self", "forward_batch", "layer_id", "key", "act_quant", "out_cache_loc"),
                (
                    (_IDX_FILE, "self._store_index_k_cache("),
                    (_SPLIT_FILE, "indexer._store_index_k_cache("),
                ),
            ),
        ),
        relies="it stores to the slots of out_cache_loc on the current stream",
    ),
    Patch(
        "after",
        "indexer:after_fused_store",
        "seal the pages that the fused norm-rope-store completed (GLM-5)",
        (
            Place(
                f"{_DSA}.Indexer._fused_k_prepare_and_store",
                (
                    *("self", "key_raw", "positions", "forward_batch", "layer_id", "act_quant"),
                    "out_cache_loc",
                ),
                ((_IDX_FILE, "self._fused_k_prepare_and_store("),),
            ),
        ),
        relies="it stores to the slots of out_cache_loc on the current stream",
    ),
    Patch(
        "after",
        "batch:after_init_new",
        "know which rows end their prompt, since they have a budget of their own, and which are decode rows",
        (
            Place(
                "sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new",
                ("cls", "batch", "*"),
                (
                    # The batch of a prefill graph is known by the list that it shares with the one built.
                    (_PREFILL_GRAPHS_FILE, "extend_seq_lens_cpu=forward_batch.extend_seq_lens_cpu,"),
                    (
                        "srt/model_executor/cuda_graph_buffer_registry.py",
                        "dataclasses.replace(forward_batch_template,",
                    ),
                    ("srt/managers/scheduler.py", "new_batch.decoding_reqs = running_batch.reqs"),
                ),
            ),
        ),
    ),
    Patch(
        "around",
        "canary:around_forward",
        'compare summaries with their rebuild after each forward; only with "canary" on',
        (
            Place(
                "sglang.srt.model_executor.model_runner.ModelRunner.forward",
                ("self", "forward_batch", "*"),
                (("srt/managers/tp_worker.py", "self.model_runner.forward("),),
            ),
        ),
        setting="canary",
    ),
    Patch(
        "around",
        "decode_graphs:around_capture",
        "capture each decode size with stock DSA as well, for steps whose rows all fit their budget",
        (
            Place(
                f"{_DECODE_GRAPHS}.capture_one_shape",
                ("self", "size", "forward", "stream_idx", "variant_label", "*"),
                ((_GRAPHS_FILE, "self.capture_one_shape("),),
            ),
        ),
        relies="a graph is kept by its size and variant_label, whatever that label is",
        setting="stock_decode_graphs",
    ),
    Patch(
        "around",
        "decode_graphs:around_variant",
        "replay that graph where pruning would not pay",
        (
            Place(
                f"{_DECODE_GRAPHS}._resolve_lora_variant",
                ("self", "forward_batch"),
                ((_GRAPHS_FILE, "self._resolve_lora_variant(forward_batch)"),),
            ),
        ),
        relies="it names the graph of a batch",
        setting="stock_decode_graphs",
    ),
    Patch(
        "after",
        "pool:after_init",
        "allocate the page summaries beside the index-K buffers",
        (Place(f"{_POOL}.__init__", ("self", "size", "page_size", "*")),),
        relies="one index-K buffer for each layer from start_layer on, one row for each page",
    ),
    Patch(
        "after",
        "pool:after_clear",
        "drop the summaries with the buffers that they describe",
        (Place(f"{_POOL}._clear_buffers", ("self",)),),
    ),
    Patch(
        "after",
        "pool:after_size",
        "count the summaries in the memory log",
        (Place(f"{_POOL}.get_kv_size_bytes", ("self",)),),
    ),
    Patch(
        "after",
        "pool:after_load_cpu_copy",
        "reseal pages whose index keys came back from the host after a retraction",
        (Place(f"{_POOL}.load_cpu_copy", ("self", "kv_cache_cpu_dict", "indices", "*")),),
        relies="it writes the index keys of the pages of indices, and of no others",
    ),
    Patch(
        "before",
        "pool:before_loading",
        "load from the host only after the step in flight, which may still store to the pages",
        (
            Place(
                _COUNTER,
                ("self",),
                (
                    (_CONTROLLER_FILE, "self.layer_done_counter.update_producer()"),
                    (_TRANSFER_FILE, "start_event.wait(self.host_to_device_stream)"),
                ),
            ),
            Place(
                _COUNTER,
                ("self",),
                (
                    (
                        f"{_HICACHE}/hybrid_cache_controller.py",
                        "self.layer_done_counter.update_producer()",
                    ),
                    (
                        f"{_HICACHE}/hybrid_cache_controller.py",
                        "producer_event.start_event.wait(self.load_stream)",
                    ),
                ),
            ),
        ),
        unless=FENCED_LOADS,
    ),
    Patch(
        "after",
        "pool:after_host_load",
        "reseal the pages of each layer that HiCache brought from the host, before readers go on",
        (
            Place(
                _HOST_POOL[0],
                _HOST_LOAD,
                (
                    (_TRANSFER_FILE, "transfer.host_pool.load_to_device_per_layer_physical("),
                    ("srt/mem_cache/pool_host/base.py", "self.load_to_device_per_layer("),
                    _ASSEMBLER,
                ),
            ),
            *(
                Place(
                    target,
                    _HOST_LOAD,
                    ((_TRANSFER_FILE, "transfer.host_pool.load_to_device_per_layer("), _ASSEMBLER),
                )
                for target in _HOST_POOL
            ),
            Place(
                _HOST_POOL[1],
                _HOST_LOAD,
                (
                    ("srt/mem_cache/memory_pool_host.py", "entry.host_pool.load_to_device_per_layer("),
                    (
                        f"{_HICACHE}/hybrid_cache_controller.py",
                        "self.mem_pool_host.load_to_device_per_layer(",
                    ),
                    _ASSEMBLER,
                ),
            ),
        ),
        relies="it copies one layer of whole pages, device_indices in order, on the current stream",
    ),
    Patch(
        "after",
        "storage:after_create",
        "HiCache storage: keys name the settings that computed the pages, so that no other server takes them",
        (
            Place(
                "sglang.srt.mem_cache.storage.backend_factory.StorageBackendFactory.create_backend",
                ("cls", "backend_name", "storage_config", "mem_pool_host", "kwargs"),
                ((_CONTROLLER_FILE, "StorageBackendFactory.create_backend("),),
            ),
        ),
    ),
    Patch(
        "after",
        "pool:after_prebuilt",
        "reseal pages that a prefill server sent: their first forward here is a decode step",
        (
            Place(
                f"{_DECODE_MIXIN}.ScheduleBatchDisaggregationDecodeMixin.prepare_for_prebuilt",
                ("self",),
                (
                    ("srt/disaggregation/decode.py", "new_batch.prepare_for_prebuilt()"),
                    ("srt/managers/schedule_batch.py", "ScheduleBatchDisaggregationDecodeMixin"),
                ),
            ),
        ),
        relies="out_cache_loc holds the slots of each request one after the other, extend_lens their numbers",
    ),
    Patch(
        "around",
        "pool:around_move",
        "reseal moved pages; refuse the moves of SGLangs that take token numbers for pages",
        (Place(f"{_POOL}.move_kv_cache", ("self", "tgt_loc", "src_loc")),),
        relies="it moves index keys as IndexKeyCache.move does",
    ),
    Patch(
        "after",
        "pool:after_cell_size",
        "count the summaries in the size of the KV pool",
        (Place(f"{_CELLS}._compute_cell_size", ("self", "kvc", "num_layers")),),
        relies="it is the bytes of a token in num_layers layers, index keys among them",
        unless=INDEXER_CELLS,
    ),
    Patch(
        "after",
        "pool:after_indexer_cell_size",
        "count the summaries in the size of the KV pool",
        (
            Place(
                f"{_CELLS}._compute_dsa_indexer_cell_size",
                ("self", "kvc", "num_layers", "*"),
                (("srt/model_executor/pool_configurator.py", "self._compute_dsa_indexer_cell_size("),),
            ),
        ),
        relies="it is the bytes of a token's index keys in the layers that store them",
        only=INDEXER_CELLS,
    ),
    Patch(
        "around",
        "scheduler:around_init",
        "decline unsupported features before the model loads; then rehearse prefill and write the receipt",
        (
            Place(
                f"{_SCHEDULER}.__init__",
                ("self", "server_args", "port_args", "gpu_id?", "*"),
                (("srt/managers/scheduler.py", "Scheduler("),),
            ),
        ),
    ),
    Patch(
        "before",
        "scheduler:before_idle",
        "bring metrics up to date when no step follows",
        (Place(f"{_SCHEDULER}.on_idle", ("self",), (("srt/managers/scheduler.py", "self.on_idle()"),)),),
    ),
    Patch(
        "after",
        "scheduler:after_internal_state",
        "show the receipt in /server_info",
        (
            Place(
                f"{_SCHEDULER}.get_internal_state",
                ("self", "recv_req"),
                (("srt/managers/scheduler.py", "self.get_internal_state"),),
            ),
        ),
    ),
)

_TOPK = "sglang.kernels.ops.attention.dsv4.topk"
_MODE = "sglang.srt.model_executor.forward_batch_info.ForwardMode"
_ATTENTION = "sglang.srt.layers.attention.dsa_backend.DeepseekSparseAttnBackend"
_META = "sglang.srt.layers.attention.dsa.dsa_indexer_metadata.DSAIndexerMetadata"
_UTILS = "sglang.srt.layers.attention.dsa.utils"
_TOPK_PARAMS = ("scores", "seq_lens", "page_tables", "out_page_indices", "page_size", "metadata", "*")
_ROWS = "lengths, pages and requests of a step's rows"
_KIND = "which steps have decode rows and which prefill rows"
_KEYS = tuple(
    f"sglang.kernels.ops.{module}.GetKAndS"
    for module in ("kvcache.dsa_index_k_cache", "attention.dsa.index_buf_accessor")
)


def _resolved(name: str, resolver: str) -> tuple[Place, ...]:
    """A function of DeepGEMM as the indexer finds it: by a resolver, or by its name."""
    return (
        Place(f"{_DSA}.{resolver}", None, ((_IDX_FILE, f"{resolver}()"),)),
        Place(f"{_DSA}.deep_gemm", None, ((_IDX_FILE, f"deep_gemm.{name}"),)),
    )


def _use(target: str, *params: str, relies: str = "", optional: bool = False) -> Use:
    return Use((Place(target, params or None),), relies, optional)


USES: tuple[Use, ...] = (
    _use(
        "sglang.srt.utils.hf_transformers.config.get_config",
        *("model", "trust_remote_code", "*", "model_override_args", "*"),
    ),
    _use("sglang.srt.configs.hybrid_arch.mambaish_config", "model_config"),
    _use("sglang.srt.configs.linear_attn_model_registry.get_linear_attn_config", "hf_config"),
    _use("sglang.srt.configs.model_config.dsa_layer_skips_topk", "config", "layer_id"),
    _use("sglang.srt.runtime_context.get_device"),
    _use(f"{_DSA}.get_token_to_kv_pool"),
    _use(
        f"{_DSA}.Indexer._mask_init_and_local_tokens",
        *("self", "logits", "lengths", "*"),
        relies="it raises the first and last columns of each row",
    ),
    _use(f"{_DSA}.Indexer._with_real_sm_count", "self", relies="the multiprocessors that DeepGEMM may use"),
    _use(
        f"{_DSA}.Indexer._forward_cuda_k_only",
        relies="steps that choose no tokens store their keys through the patched stores",
    ),
    _use(
        f"{_POOL}.get_index_k_with_scale_buffer",
        *("self", "layer_id"),
        relies="it waits for the load of this layer",
    ),
    _use(_MOVE, relies="whether it moves tokens or pages", optional=True),
    _use(
        "sglang.srt.mem_cache.index_key_cache.IndexKeyCache.get_local_buffer",
        relies="it waits for the load of this layer",
        optional=True,
    ),
    _use(
        "sglang.srt.mem_cache.index_key_cache.IndexKeyCache.load_cpu_copy",
        relies="it writes the index keys of the pages of indices, and of no others",
        optional=True,
    ),
    Use(
        (Place(f"{_HICACHE_CONTROLLER}.start_loading", ("self",)),),
        relies="loads begin after the step in flight, or after what update_producer waits for",
    ),
    _use(f"{_META}.get_seqlens_int32", "self", relies=_ROWS),
    _use(f"{_META}.get_seqlens_expanded", "self", relies=_ROWS),
    _use(f"{_META}.get_page_table_64", "self", relies=_ROWS),
    _use(f"{_META}.get_token_to_batch_idx", "self", relies=_ROWS),
    _use(f"{_META}.get_dsa_extend_len_cpu", "self", relies=_ROWS),
    _use(f"{_META}.get_indexer_seq_len_cpu", "self", relies=_ROWS),
    _use(
        f"{_ATTENTION}.get_topk_transform_method",
        *("self", "forward_mode"),
        relies="which steps take slots and which positions",
    ),
    _use(f"{_MODE}.is_decode", "self", relies=_KIND),
    _use(f"{_MODE}.is_idle", "self", relies=_KIND),
    _use(f"{_MODE}.is_target_verify", "self", relies=_KIND),
    _use(f"{_MODE}.is_draft_extend_v2", "self", relies=_KIND),
    _use(f"{_MODE}.is_extend_without_speculative", "self", relies=_KIND),
    _use(
        "sglang.srt.layers.attention.dsa.dsa_topk_backend.DSATopKBackend.topk_func",
        *("self", "score", "lengths", "topk", "*"),
        relies="positions of the top-k, -1 where a row has fewer",
    ),
    _use(f"{_TOPK}.plan_topk_v2", "seq_lens", "*"),
    Use(
        (
            Place(f"{_TOPK}.topk_transform_paged_v2", _TOPK_PARAMS),
            Place(f"{_TOPK}.topk_transform_512_v2", _TOPK_PARAMS),
        ),
        relies="it writes each element of out_page_indices, -1 where a row has fewer",
    ),
    Use(_resolved("fp8_paged_mqa_logits", "resolve_fp8_paged_mqa_logits_fn")),
    Use(_resolved("fp8_mqa_logits", "resolve_fp8_mqa_logits_fn")),
    Use(_resolved("get_paged_mqa_logits_metadata", "resolve_paged_mqa_logits_metadata_fn")),
    *(
        _use(
            f"{_UTILS}.{name}",
            relies="which function of DeepGEMM it takes, and its parameters",
            optional=True,
        )
        for name in (
            "resolve_fp8_paged_mqa_logits_fn",
            "resolve_fp8_mqa_logits_fn",
            "resolve_paged_mqa_logits_metadata_fn",
        )
    ),
    Use(tuple(Place(target) for target in _KEYS)),
)

ROWS: tuple[Row, ...] = (*PATCHES, *USES)
