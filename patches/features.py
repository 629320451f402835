"""Server arguments, models and GPUs that HISA does not serve: declined by name at start, never silently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Feature:
    """A server argument whose value may ask for something HISA cannot serve."""

    argument: str
    allowed: Callable[[Any], bool]
    why: str
    fix: str
    optional: bool = False
    """Whether some SGLangs have no such argument."""


def _off(value: Any) -> bool:
    return not value


def _one(value: Any) -> bool:
    return value in (None, 0, 1)


def _next_token_drafts(value: Any) -> bool:
    return value in (None, "", "EAGLE", "NEXTN")


_BYPASS = "it writes index keys without a store after which HISA could seal the page"

FEATURES: tuple[Feature, ...] = (
    Feature("page_size", lambda v: v in (None, 64), "HISA needs pages of 64 tokens", "--page-size 64"),
    Feature("dcp_size", _one, "decode context parallelism shards the index keys", "--dcp-size 1"),
    Feature("attn_cp_size", _one, "context-parallel prefill splits the rows", "drop --attn-cp-size"),
    Feature(
        "enable_dsa_prefill_context_parallel",
        _off,
        "context-parallel prefill splits the rows",
        "drop the flag",
        optional=True,
    ),
    Feature(
        "enable_prefill_context_parallel",
        _off,
        "context-parallel prefill splits the rows",
        "drop the flag",
        optional=True,
    ),
    Feature(
        "enable_dsa_cache_layer_split",
        _off,
        "layers read index keys from a broadcast scratch buffer",
        "drop --enable-dsa-cache-layer-split",
    ),
    Feature("enable_kv_cache_sharding", _off, "page tables address shards", "drop the flag", optional=True),
    Feature("enable_hisparse", _off, "its pool is not covered by tests", "drop --enable-hisparse"),
    Feature("enable_lmcache", _off, _BYPASS, "drop --enable-lmcache"),
    Feature("enable_flexkv", _off, _BYPASS, "drop --enable-flexkv"),
    Feature("enable_unified_cache_external_linker", _off, _BYPASS, "drop the flag", optional=True),
    Feature("enable_linker_mla_dedup", _off, _BYPASS, "drop the flag", optional=True),
    Feature(
        "speculative_algorithm",
        _next_token_drafts,
        "only drafts of the model's own next-token layer (MTP) are covered by tests",
        "--speculative-algorithm EAGLE, or drop it",
    ),
    Feature(
        "speculative_eagle_topk",
        _one,
        "trees of drafts move index keys between pages, which most SGLang releases do wrongly",
        "--speculative-eagle-topk 1",
    ),
    Feature(
        "enable_multi_layer_eagle",
        _off,
        "several draft layers are not covered by tests",
        "drop --enable-multi-layer-eagle",
    ),
    Feature(
        "speculative_adaptive",
        _off,
        "a changing number of draft tokens is not covered by tests",
        "drop --speculative-adaptive",
    ),
    Feature("enable_two_batch_overlap", _off, "not covered by tests", "drop --enable-two-batch-overlap"),
    Feature("enable_pdmux", _off, "not covered by tests", "drop --enable-pdmux"),
    Feature("dllm_algorithm", _off, "diffusion models have no DSA decode", "drop --dllm-algorithm"),
    Feature(
        "dsa_paged_mqa_logits_backend",
        lambda v: getattr(v, "value", v) in (None, "auto", "deepgemm"),
        "candidate tables are scored by DeepGEMM or by HISA's Triton kernel",
        "--dsa-paged-mqa-logits-backend deepgemm",
    ),
    Feature(
        "enable_dsa_fused_indexer",
        _off,
        "it replaces the scores that HISA computes for fewer tokens",
        "drop the flag",
        optional=True,
    ),
    Feature(
        "device",
        lambda v: v in (None, "cuda", "cpu"),
        "HISA's kernels are written for CUDA GPUs (and a CPU for tests)",
        "use an NVIDIA GPU",
    ),
)


@dataclass(frozen=True)
class ModelField:
    """A field of a model's configuration whose value shows that HISA cannot serve the model."""

    name: str
    allowed: Callable[[Any], bool]
    why: str


MODEL_FIELDS: tuple[ModelField, ...] = (
    ModelField(
        "is_hybrid_swa",
        _off,
        "the DSA pool lies inside a pool of sliding-window layers, which numbers layers in its own way, so "
        "page summaries would not be found",
    ),
    ModelField("index_kpool", _one, "the model pools its index keys itself, so no page can be pruned"),
)
MODEL_FIX = "serve stock DSA"

LINEAR_ATTENTION = "linear attention or Mamba beside DSA"
LINEAR_WHY = (
    "the DSA pool lies inside one of linear-attention or Mamba layers (HybridLinearKVPool), which numbers "
    "layers in its own way, so page summaries would not be found"
)

ROCM = "ROCm"
ROCM_WHY = "the fused indexers for AMD GPUs keep index keys in tiles and write them where HISA does not seal"
ROCM_FIX = "use an NVIDIA GPU"


_MISSING = object()


def _of_model(hf_config: Any, name: str) -> Any:
    """An attribute of the model's configuration or, where that has none, of its text part."""
    return getattr(hf_config, name, getattr(getattr(hf_config, "text_config", None), name, None))


def declined(server_args: Any, hf_config: Any, *, linear_attention: bool = False) -> list[str]:
    """Reasons why these server arguments, this model or this kind of GPU are not served; empty if they are.

    ``linear_attention``: SGLang keeps the keys of this model beside the states of linear attention or Mamba.
    """
    reasons = []
    if torch.version.hip:  # SGLang's device is "cuda" there as well
        reasons.append(f"{ROCM} {torch.version.hip}: {ROCM_WHY}; fix: {ROCM_FIX}")
    for feature in FEATURES:
        value = getattr(server_args, feature.argument, _MISSING)
        if value is _MISSING:
            if not feature.optional:
                reasons.append(f"{feature.argument}: this SGLang no longer has this argument")
        elif not feature.allowed(value):
            reasons.append(f"{feature.argument}={value}: {feature.why}; fix: {feature.fix}")
    for field in MODEL_FIELDS:
        value = _of_model(hf_config, field.name)
        if not field.allowed(value):
            reasons.append(f"{field.name}={value} of the model: {field.why}; fix: {MODEL_FIX}")
    if linear_attention:
        reasons.append(f"{type(hf_config).__name__}: {LINEAR_WHY}; fix: {MODEL_FIX}")
    return reasons
