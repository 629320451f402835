"""Names of SGLang that HISA calls, reads or relies on without patching them."""

from __future__ import annotations

from sglang_hisa.patches.places import DSA, HICACHE_CONTROLLER, INDEXER_FILE, MOVE, POOL, Place, Use

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
        Place(f"{DSA}.{resolver}", None, ((INDEXER_FILE, f"{resolver}()"),)),
        Place(f"{DSA}.deep_gemm", None, ((INDEXER_FILE, f"deep_gemm.{name}"),)),
    )


def _use(target: str, *params: str, relies: str = "", optional: bool = False) -> Use:
    return Use((Place(target, params or None),), relies, optional)


USES: tuple[Use, ...] = (
    _use(
        "sglang.srt.utils.hf_transformers.config.get_config",
        "model",
        "trust_remote_code",
        "*",
        "model_override_args",
        "*",
    ),
    _use("sglang.srt.configs.hybrid_arch.mambaish_config", "model_config"),
    _use("sglang.srt.configs.linear_attn_model_registry.get_linear_attn_config", "hf_config"),
    _use("sglang.srt.configs.model_config.dsa_layer_skips_topk", "config", "layer_id"),
    _use("sglang.srt.runtime_context.get_device"),
    _use(f"{DSA}.get_token_to_kv_pool"),
    _use(
        f"{DSA}.Indexer._mask_init_and_local_tokens",
        "self",
        "logits",
        "lengths",
        "*",
        relies="it raises the first and last columns of each row",
    ),
    _use(f"{DSA}.Indexer._with_real_sm_count", "self", relies="the multiprocessors that DeepGEMM may use"),
    _use(
        f"{DSA}.Indexer._forward_cuda_k_only",
        relies="steps that choose no tokens store their keys through the patched stores",
    ),
    _use(
        f"{POOL}.get_index_k_with_scale_buffer",
        "self",
        "layer_id",
        relies="it waits for the load of this layer",
    ),
    _use(MOVE, relies="whether it moves tokens or pages", optional=True),
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
        (Place(f"{HICACHE_CONTROLLER}.start_loading", ("self",)),),
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
        "self",
        "forward_mode",
        relies="which steps take slots and which positions",
    ),
    _use(f"{_MODE}.is_decode", "self", relies=_KIND),
    _use(f"{_MODE}.is_idle", "self", relies=_KIND),
    _use(f"{_MODE}.is_target_verify", "self", relies=_KIND),
    _use(f"{_MODE}.is_draft_extend_v2", "self", relies=_KIND),
    _use(f"{_MODE}.is_extend_without_speculative", "self", relies=_KIND),
    _use(
        "sglang.srt.layers.attention.dsa.dsa_topk_backend.DSATopKBackend.topk_func",
        "self",
        "score",
        "lengths",
        "topk",
        "*",
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
