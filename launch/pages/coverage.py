"""What runs where: model x feature, and the tests and records that show it. docs/supported.md is made of it.

A feature without evidence is served by the same code, but nobody has run it: the page says "not run".
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_hisa.launch.pages.reader import ROOT
from sglang_hisa.patches.releases import NEWEST, RELEASES, since


def existing(*records: str) -> tuple[str, ...]:
    """Those of ``records`` that have been made."""
    return tuple(name for name in records if (ROOT / name).is_file())


_SERVER = "tests/server/test_real_server.py::"
_BUSY = "tests/server/test_canary.py::"
BETWEEN = "tests/server/test_releases.py::"
"""Tests that are run with each release between the first and the last."""
_LOAD = f"{BETWEEN}test_selections_and_summaries_under_load"
_SPECULATIVE = "tests/server/test_speculative.py::"
_MOVERS = "tests/server/test_movers.py::"
_STORM = "tests/server/test_storm.py::"
_FAMILIES = "tests/server/test_families.py::"
_UNIT = "tests/sglang_hisa/test_indexer.py::"
_DETERMINISTIC = "tests/patches/test_deterministic.py::test_everything_that_looks_at_the_batch_is_off"
_POOL = "tests/patches/test_pool.py::"
_WITHIN = "test_budget_that_covers_the_context_is_stock"
_SHARED = f"{_FAMILIES}test_shared_layers_reuse_the_choice"
_RANKS = "tests/server/test_two_ranks.py::"
_STAGES = f"{_RANKS}test_pipeline_stages_over_an_fp8_kv_cache"
_GPU_TESTS = ("launch/results/tests-h100.txt", "launch/results/tests-h200-0.5.23.txt")
_KITS = "tests/patches/test_upstream_kits.py::test_attention_kit_on_a_cpu"
_CHOOSING = "tests/patches/test_layers.py::test_layers_that_choose_for_themselves"
_SERVE = "launch/results/h100-serve.json"
_KERNELS = ("launch/results/kernels-h100.json", "launch/results/kernels-h200-0.5.23.json")
_AB = existing("launch/results/ab-defaults.json", "launch/results/ab-served.json")
_AB_LONG = (
    "launch/results/ab-v32-tp8-rank-h100-256k.json",
    "launch/results/ab-defaults-256k.json",
    "launch/results/ab-served-256k.json",
)
_AB_GLM5 = "launch/results/ab-glm5-4l.json"
_QUALITY = "launch/results/quality.json"
_AB_TWO = "launch/results/ab-v32-4l-tp2.json"
_STRESSES = existing("launch/results/stress-h100.json", "launch/results/stress-h200-0.5.23.json")
_STRESS_GLM = "launch/results/stress-h100-first.json"


@dataclass(frozen=True)
class Of:
    """What a record of acceptance is of: how many GPUs, and what a reader of its times must know."""

    gpus: int
    note: str = ""


CASE_RECORDS = {
    "launch/results/coverage-h100.json": Of(1),
    "launch/results/coverage-h200-0.5.23.json": Of(
        1, "Several cases ran side by side on the GPU, so the times are not those of a server alone."
    ),
    "launch/results/two-gpu.json": Of(2),
    "launch/results/two-gpu-0.5.23.json": Of(2),
    "launch/results/eight-gpu.json": Of(8),
}
"""One that is not there has not been made yet."""


@dataclass(frozen=True)
class Coverage:
    """One feature of one model, in each SGLang that has it."""

    model: str
    feature: str
    evidence: tuple[str, ...] = ()
    """Tests (``path::function``, run on the CPU with the first and last release; those of ``BETWEEN`` with
    the others) and records of a GPU run (JSON, or what tests printed)."""
    versions: tuple[str, ...] = RELEASES
    declined: str = ""
    """Why it is refused at start; empty when it is served."""
    cases: tuple[str, ...] = ()
    """Cases of :mod:`sglang_hisa.launch.acceptance` that show it on a GPU once ``CASE_RECORDS`` hold them."""


V32, GLM5, GLM52 = "DeepSeek-V3.2", "GLM-5, 5.1", "GLM-5.2"

COVERAGE: tuple[Coverage, ...] = (
    Coverage(V32, "decode and chunked prefill", (f"{_BUSY}test_small_budget_under_load", _LOAD, _SERVE)),
    Coverage(
        V32,
        "mixed batches, radix cache, pool below the load",
        (f"{_BUSY}test_small_budget_under_load", _LOAD),
        cases=("no-overlap",),
    ),
    Coverage(
        V32, "stock's answers within the budget", (f"{_SERVER}{_WITHIN}", _SERVE, _QUALITY), cases=("plain",)
    ),
    Coverage(V32, "blocks of 128", (f"{_SERVER}test_large_blocks_sink_and_local", _SERVE)),
    Coverage(
        V32,
        "wide sink and local windows",
        (f"{_SERVER}test_large_blocks_sink_and_local",),
        cases=("windows",),
    ),
    Coverage(
        V32,
        "unfused top-k: positions, not slots",
        (f"{_SERVER}test_large_blocks_sink_and_local",),
        cases=("torch-topk",),
    ),
    Coverage(
        V32,
        "dense tail",
        (f"{_SERVER}test_the_end_of_a_prompt_stays_dense",),
        cases=("dense-tail",),
    ),
    Coverage(V32, "audit", (f"{_SERVER}test_the_end_of_a_prompt_stays_dense", _SERVE)),
    Coverage(V32, "metrics", (f"{_SERVER}test_answers_from_the_cache",)),
    Coverage(V32, "decode CUDA graphs, overlap schedule, FlashMLA sparse, bf16 KV", (_SERVE, *_AB)),
    Coverage(V32, "contexts to 256K", _AB_LONG),
    Coverage(
        V32,
        "fp8 KV cache: RAGGED top-k in prefill, FlashMLA KV decode",
        (_STAGES, f"{_UNIT}test_prefill_rows_of_two_requests"),
        cases=("fp8-kv",),
    ),
    Coverage(V32, "fp8 KV with FlashMLA KV in prefill as well (PAGED)", cases=("fp8-kv-paged",)),
    Coverage(V32, "fa3 decode", cases=("fa3",)),
    Coverage(V32, "contexts to 1M", ("launch/results/ab-v32-4l-1m.json",), cases=("1m",)),
    Coverage(
        V32,
        "top-k of torch instead of fused v2",
        (f"{_RANKS}test_both_ranks_serve_and_choose_the_same",),
        cases=("torch-topk",),
    ),
    Coverage(
        V32,
        "top-k of FlashInfer, deterministic",
        ("tests/patches/test_topk_options.py::test_deterministic_top_k_of_flashinfer",),
        cases=("flashinfer-topk",),
    ),
    Coverage(
        V32,
        "retraction, abort, pause, flush",
        (f"{_STORM}test_retraction_abort_pause_flush_and_new_weights", *_STRESSES),
    ),
    Coverage(V32, "new weights", (f"{_STORM}test_retraction_abort_pause_flush_and_new_weights",)),
    Coverage(V32, "retraction to the host and back", (f"{_POOL}test_bytes_from_the_host_are_resealed",)),
    Coverage(
        V32,
        "HiCache: pages back from the host",
        (f"{_MOVERS}test_hicache_brings_pages_back_with_their_summaries", _LOAD, *_STRESSES),
        cases=("hicache",),
    ),
    Coverage(
        V32,
        "HiCache: kernel and direct copies, every layout; pages from storage (L3)",
        (
            "tests/patches/test_host_load.py::test_each_layer_is_resealed_and_no_other_page",
            "tests/patches/test_host_load.py::test_pages_that_storage_brought_to_the_host",
        ),
    ),
    Coverage(
        V32,
        "HiCache storage (L3) shared by servers: each finds what its own settings computed",
        (
            "tests/server/test_storage.py::test_a_server_finds_the_pages_of_its_own_settings_alone",
            "tests/patches/test_storage.py::test_who_finds_the_pages_of_whom",
        ),
    ),
    Coverage(
        V32,
        "PD disaggregation: prefill and decode server, retraction on the decode side",
        (f"{_MOVERS}test_pd_decode_seals_what_a_prefill_server_sent",),
        cases=("pd-both", "pd-decode", "pd-prefill"),
    ),
    Coverage(
        V32,
        "memory saver: release and resume (its package needs CUDA: a stand-in on CPUs)",
        (f"{_STORM}test_memory_released_and_resumed",),
        cases=("sleep",),
    ),
    Coverage(
        V32,
        "speculative decoding (MTP): stock's drafts and answers within the budget",
        (f"{_SPECULATIVE}test_budget_that_covers_the_context_accepts_what_stock_accepts",),
        cases=("mtp",),
    ),
    Coverage(
        V32,
        "speculative decoding: pruned rows, page ends, radix cache, several requests",
        (f"{_SPECULATIVE}test_small_budget_at_page_boundaries",),
    ),
    Coverage(
        V32, "speculative decoding: CUDA graphs of verify and draft steps, overlap schedule", cases=("mtp",)
    ),
    Coverage(
        V32,
        "speculative decoding together with HiCache (0.5.17 itself loses the draft's index keys)",
        (
            f"{_SPECULATIVE}test_small_budget_at_page_boundaries",
            f"{_POOL}test_pages_that_come_back_without_the_draft_models",
        ),
    ),
    Coverage(V32, "speculative decoding over an fp8 KV cache", cases=("mtp-fp8",)),
    Coverage(
        V32,
        "speculative decoding together with DP attention: idle ranks, padded rows",
        (f"{_RANKS}test_dp_attention_with_drafts",),
        since("0.5.18"),
    ),
    Coverage(V32, "speculative decoding together with DP attention, steps in graphs", cases=("dp2-mtp",)),
    Coverage(
        V32,
        "speculative decoding together with PD disaggregation",
        (f"{_SPECULATIVE}test_drafts_behind_a_prefill_server",),
    ),
    Coverage(
        V32,
        "pipeline parallel: each stage serves its own layers",
        (_STAGES, f"{_POOL}test_allocated_counted_and_dropped"),
        cases=("pp2",),
    ),
    Coverage(V32, "prefill CUDA graphs: breakable", cases=("prefill-breakable",)),
    Coverage(V32, "prefill CUDA graphs: piecewise", versions=RELEASES[:-2], cases=("prefill-piecewise",)),
    Coverage(
        V32,
        "tensor parallel: two ranks; `SGLANG_DSA_TOPK_BROADCAST`",
        (f"{_RANKS}test_both_ranks_serve_and_choose_the_same", _AB_TWO),
        cases=("tp2", "tp2-broadcast"),
    ),
    Coverage(
        V32,
        "tensor parallel: both ranks choose the same tokens",
        (f"{_RANKS}test_both_ranks_serve_and_choose_the_same",),
        cases=("ranks-same",),
    ),
    Coverage(
        V32,
        "DP attention: idle ranks, padded rows, mixed chunked prefill",
        (f"{_RANKS}test_dp_attention",),
        cases=("dp2",),
    ),
    Coverage(
        V32,
        "DP attention: decode rows that run as an extend beside another rank's prefill",
        ("tests/patches/test_batch.py::test_a_step_relabelled_for_a_peers_prefill_keeps_the_decode_budget",),
        cases=("chunks-dp",),
    ),
    Coverage(
        V32,
        "SGLang's default prefill graphs: small chunks, the dense tail, as without graphs",
        ("tests/patches/test_batch.py::test_chunks_ends_and_decode_rows_of_a_step",),
        cases=("chunks-1024", "chunks-2048", "chunks-8192"),
    ),
    Coverage(
        V32,
        "deterministic inference: other rows of the step do not change a row's choice",
        ("tests/sglang_hisa/test_company.py::test_other_requests_change_no_pair", _DETERMINISTIC),
    ),
    Coverage(
        V32,
        "LoRA on `weights_proj` (older SGLangs cannot: their check imports a name that they do not have)",
        ("tests/server/test_lora.py::test_gates_of_an_adapter",),
        (NEWEST,),
        cases=("lora",),
    ),
    Coverage(V32, "SGLang's own DSA attention tests (they choose no tokens)", (_KITS, *_GPU_TESTS)),
    Coverage(GLM5, "interleaved index rope, fused key path without Hadamard", (f"{_FAMILIES}test_glm5",)),
    Coverage(GLM5, "32 index heads", (f"{_FAMILIES}test_glm5", *_KERNELS, _AB_GLM5), cases=("glm5",)),
    Coverage(GLM5, "layers of full width, contexts to 128K", (_AB_GLM5,)),
    Coverage(
        GLM5,
        "speculative decoding (MTP), draft steps that reuse a choice (`index_share_for_mtp_iteration`)",
        (f"{_SPECULATIVE}test_small_budget_at_page_boundaries",),
        cases=("glm5-mtp",),
    ),
    Coverage(
        GLM5, "the CUDA kernel that norms, ropes and stores in one launch (no CPU form)", cases=("glm5",)
    ),
    Coverage(
        GLM52,
        "index sharing: `index_topk_freq`",
        (_SHARED, _STRESS_GLM),
        cases=("shared-layers",),
    ),
    Coverage(GLM52, "index sharing with `--enable-return-indexer-topk`", (_SHARED,)),
    Coverage(
        GLM52,
        "layers without index keys (0 rows)",
        (_SHARED,),
        since("0.5.18"),
        cases=("keyless-layers", "keyless-hicache"),
    ),
    Coverage(GLM52, "index sharing: `index_topk_pattern`, `index_skip_topk_offset`", (_CHOOSING,)),
    Coverage(
        "LongCat-Flash",
        "decode and prefill, index sharing: `cli_factor`",
        (f"{_FAMILIES}test_longcat_flash", _CHOOSING),
    ),
    Coverage("LongCat-Flash", "zero experts, side stream"),
    Coverage(
        "Mistral Large 3, Pixtral with an indexer",
        "decode and prefill (DeepSeek-V3's class, but SGLang's loader has no name for an indexer's weights)",
    ),
    Coverage(
        "HY-V4",
        "decode and prefill, attention sinks, index sharing: `indexer_types`",
        (f"{_FAMILIES}test_hy_v4",),
        since("0.5.20"),
    ),
    Coverage(
        "Dots3",
        "decode and prefill",
        ("tests/patches/test_refusals.py::test_a_dsa_pool_inside_a_sliding_window_pool_is_declined",),
        since("0.5.19"),
        declined="its DSA pool lies inside a pool of sliding-window layers",
    ),
    Coverage(
        "GLM-5-Next",
        "decode and prefill",
        (
            "tests/patches/test_refusals.py::test_every_reason_is_listed_and_unknown_arguments_are_reasons",
            "tests/patches/test_refusals.py::test_a_dsa_pool_beside_linear_attention_is_declined",
        ),
        since("0.5.20"),
        declined="its DSA pool lies inside a pool of linear-attention layers, and with `index_kpool` above 1 "
        "it pools its index keys itself",
    ),
    Coverage(
        "any model without an `Indexer` (DeepSeek-V4, dense models)",
        "decode and prefill",
        ("tests/patches/test_layers.py::test_a_server_without_an_indexer_is_refused",),
        declined="no DSA indexer is built, so the receipt is empty",
    ),
    Coverage(
        "any",
        "index keys of another width than 128",
        ("tests/patches/test_layers.py::test_another_key_width_is_refused",),
        declined="the kernels are written for 128",
    ),
    Coverage(
        "any with linear-attention or Mamba layers (GLM-5-Next, Kimi-Linear)",
        "decode and prefill",
        ("tests/patches/test_refusals.py::test_a_dsa_pool_beside_linear_attention_is_declined",),
        declined="its DSA pool would lie inside a `HybridLinearKVPool`",
    ),
    Coverage(
        "any",
        "ROCm",
        ("tests/patches/test_refusals.py::test_rocm_is_declined_although_it_is_called_cuda",),
        declined="the kernels are written for CUDA",
    ),
    Coverage(
        "any",
        "GPUs of another compute capability than 9.0 (Blackwell), unless `unverified_gpu` is set",
        (
            "tests/patches/test_gpu.py::test_a_gpu_without_a_record_is_declined_with_a_fix_that_keeps_the_settings",
            "tests/sglang_hisa/test_schedule.py::test_each_piece_is_scored_once_by_the_scheduler_of_the_gpu",
        ),
        declined="no record shows them",
    ),
)
