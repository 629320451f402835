"""Behaviours by which releases of SGLang differ, each with what in the source shows it."""

from __future__ import annotations

from sglang_hisa.patches.places import HICACHE_CONTROLLER, MOVE, Probe

FENCED_LOADS = "fenced loads"
DRAFT_LOADS = "draft loads"
TOKEN_MOVES = "token moves"
INDEXER_CELLS = "indexer cells"
GPU_ARGUMENT = "gpu argument"

HOST_POOL = (
    "sglang.srt.mem_cache.pool_host.dsa.DSAIndexerPoolHost.load_to_device_per_layer",
    "sglang.srt.mem_cache.memory_pool_host.DSAIndexerPoolHost.load_to_device_per_layer",
)
CELLS = "sglang.srt.model_executor.pool_configurator.DefaultPoolConfigurator"
SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"

BEHAVIOURS: dict[str, Probe] = {
    FENCED_LOADS: Probe(
        "HiCache loads pages only after the step in flight",
        (f"{HICACHE_CONTROLLER}.start_loading",),
        text="self.load_fence_stream",
    ),
    DRAFT_LOADS: Probe("HiCache keeps the index keys of draft models", HOST_POOL, parameter="is_draft"),
    TOKEN_MOVES: Probe("index keys are moved token by token", (MOVE,), text="tgt_loc_flat // page_size"),
    INDEXER_CELLS: Probe(
        "the size of index keys in the KV pool has a function of its own",
        (f"{CELLS}._compute_dsa_indexer_cell_size",),
    ),
    GPU_ARGUMENT: Probe("the scheduler is told its GPU", (f"{SCHEDULER}.__init__",), parameter="gpu_id"),
}
"""What differs between SGLangs and decides what HISA does, by the name that our code asks for."""
