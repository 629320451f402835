"""Every place where HISA touches SGLang, as data: what, how, what it needs there, and why.

`hisa doctor`, the start-up check, the contract test and docs/supported.md all read this table. No row names a
version: a row lists where releases have its attribute, and the check takes the first place that fits.
"""

from __future__ import annotations

from sglang_hisa.patches.behaviours import CELLS, FENCED_LOADS, HOST_POOL, INDEXER_CELLS, SCHEDULER
from sglang_hisa.patches.places import DSA, INDEXER_FILE, POOL, Patch, Place, Row
from sglang_hisa.patches.uses import USES

_PAGED = ("self", "forward_batch", "layer_id", "q_fp8", "weights", "metadata")
_HOST_LOAD = (
    *("self", "device_pool", "host_indices", "device_indices", "layer_id", "io_backend"),
    "is_draft?",
)
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
                f"{DSA}.Indexer.__init__",
                ("self", "*", "layer_id", "*", "config", "*"),
                (("srt/models/deepseek_v2.py", f"from {DSA} import Indexer"),),
            ),
        ),
    ),
    Patch(
        "around",
        "indexer:around_topk_paged",
        "decode, verify and draft-extend rows choose from their candidate pages",
        (Place(f"{DSA}.Indexer._get_topk_paged", _PAGED, ((INDEXER_FILE, "self._get_topk_paged("),)),),
        relies="which lengths and which page table its rows have, and how padded rows are filled",
    ),
    Patch(
        "around",
        "indexer:around_topk_ragged",
        "prefill rows choose from their candidate pages",
        (
            Place(
                f"{DSA}.Indexer._get_topk_ragged",
                (
                    *("self", "enable_dual_stream", "forward_batch", "layer_id", "q_fp8", "weights"),
                    *("metadata", "topk_result"),
                ),
                (
                    (INDEXER_FILE, "self._get_topk_ragged("),
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
                f"{DSA}.Indexer._store_index_k_cache",
                ("self", "forward_batch", "layer_id", "key", "act_quant", "out_cache_loc"),
                (
                    (INDEXER_FILE, "self._store_index_k_cache("),
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
                f"{DSA}.Indexer._fused_k_prepare_and_store",
                (
                    *("self", "key_raw", "positions", "forward_batch", "layer_id", "act_quant"),
                    "out_cache_loc",
                ),
                ((INDEXER_FILE, "self._fused_k_prepare_and_store("),),
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
        (Place(f"{POOL}.__init__", ("self", "size", "page_size", "*")),),
        relies="one index-K buffer for each layer from start_layer on, one row for each page",
    ),
    Patch(
        "after",
        "pool:after_clear",
        "drop the summaries with the buffers that they describe",
        (Place(f"{POOL}._clear_buffers", ("self",)),),
    ),
    Patch(
        "after",
        "pool:after_size",
        "count the summaries in the memory log",
        (Place(f"{POOL}.get_kv_size_bytes", ("self",)),),
    ),
    Patch(
        "after",
        "pool:after_load_cpu_copy",
        "reseal pages whose index keys came back from the host after a retraction",
        (Place(f"{POOL}.load_cpu_copy", ("self", "kv_cache_cpu_dict", "indices", "*")),),
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
                HOST_POOL[0],
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
                for target in HOST_POOL
            ),
            Place(
                HOST_POOL[1],
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
        (Place(f"{POOL}.move_kv_cache", ("self", "tgt_loc", "src_loc")),),
        relies="it moves index keys as IndexKeyCache.move does",
    ),
    Patch(
        "after",
        "pool:after_cell_size",
        "count the summaries in the size of the KV pool",
        (Place(f"{CELLS}._compute_cell_size", ("self", "kvc", "num_layers")),),
        relies="it is the bytes of a token in num_layers layers, index keys among them",
        unless=INDEXER_CELLS,
    ),
    Patch(
        "after",
        "pool:after_indexer_cell_size",
        "count the summaries in the size of the KV pool",
        (
            Place(
                f"{CELLS}._compute_dsa_indexer_cell_size",
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
                f"{SCHEDULER}.__init__",
                ("self", "server_args", "port_args", "gpu_id?", "*"),
                (("srt/managers/scheduler.py", "Scheduler("),),
            ),
        ),
    ),
    Patch(
        "before",
        "scheduler:before_idle",
        "bring metrics up to date when no step follows",
        (Place(f"{SCHEDULER}.on_idle", ("self",), (("srt/managers/scheduler.py", "self.on_idle()"),)),),
    ),
    Patch(
        "after",
        "scheduler:after_internal_state",
        "show the receipt in /server_info",
        (
            Place(
                f"{SCHEDULER}.get_internal_state",
                ("self", "recv_req"),
                (("srt/managers/scheduler.py", "self.get_internal_state"),),
            ),
        ),
    ),
)

ROWS: tuple[Row, ...] = (*PATCHES, *USES)
"""All rows: what is patched, and what is used as it is."""
