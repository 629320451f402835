"""Adapters on the scheduler: decline before the model loads, write the receipt once it is ready."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

import torch

from sglang_hisa import gpu
from sglang_hisa.config import alone, cpu_stand_ins_requested, only_ours
from sglang_hisa.patches import runtime
from sglang_hisa.patches.behaviours import GPU_ARGUMENT
from sglang_hisa.patches.deterministic import settle
from sglang_hisa.patches.features import MODEL_FIX, declined
from sglang_hisa.patches.live_metrics import LiveMetrics
from sglang_hisa.patches.metric_labels import of_scheduler
from sglang_hisa.patches.metrics import export
from sglang_hisa.patches.plugin import STOCK, Reason, refuse
from sglang_hisa.patches.rehearsal import rehearse_prefill
from sglang_hisa.schedule import Device

logger = logging.getLogger(__name__)

FIX = f"follow the fix on each line; to serve stock DSA means: {STOCK}"


def _hf_config(server_args: Any) -> Any:
    from sglang.srt.utils.hf_transformers.config import get_config

    overrides = json.loads(getattr(server_args, "json_model_override_args", None) or "{}")
    return get_config(
        server_args.model_path,
        trust_remote_code=server_args.trust_remote_code,
        model_override_args=overrides,
    )


def _not_dsa(hf_config: Any) -> list[str]:
    """Why this is no DSA model, by SGLang's own rule; empty where it is one."""
    from sglang.srt.configs.model_config import is_deepseek_dsa

    if is_deepseek_dsa(hf_config):
        return []
    names = ", ".join(getattr(hf_config, "architectures", None) or [type(hf_config).__name__])
    return [f"{names} is not a DeepSeek-Sparse-Attention model; fix: {MODEL_FIX}"]


def _linear_attention(hf_config: Any) -> bool:
    """Whether SGLang gives this model a ``HybridLinearKVPool``, by its own rule.

    ``kv_cache_configurator.py`` asks it of a ``ModelConfig``, of which it reads three attributes.
    """
    from sglang.srt.configs.hybrid_arch import mambaish_config
    from sglang.srt.configs.linear_attn_model_registry import get_linear_attn_config

    registered = get_linear_attn_config(hf_config)
    model: Any = SimpleNamespace(
        hf_config=hf_config, is_draft_model=False, linear_attn_registry_result=registered
    )
    return mambaish_config(model) is not None


def _gpu_index(state: runtime.Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """GPU of this scheduler, which is not the current one yet. ``args``: those after ``server_args``."""
    if GPU_ARGUMENT in state.behaviours:
        return int(kwargs["gpu_id"] if "gpu_id" in kwargs else args[1])
    from sglang.srt.runtime_context import get_device

    return int(get_device().gpu_id)


def _has_decode_graphs(scheduler: Any) -> bool:
    """Whether it captured any: a prefill server of a disaggregated pair has none, whatever its flags say."""
    from sglang.srt.model_executor.runner.decode_cuda_graph_runner import DecodeCudaGraphRunner

    return isinstance(scheduler.tp_worker.model_runner.decode_cuda_graph_runner, DecodeCudaGraphRunner)


def _check_receipt(state: runtime.Runtime, decode_graphs: bool) -> list[Reason]:
    """Reasons why a server that started, and captured decode graphs or none, does not serve HISA."""
    alone = f"another plugin may do that; load HISA alone: {only_ours(cpu_stand_ins_requested())}"
    problems = []
    if not state.layers:
        text = "no DSA indexer was built: the model is not a DeepSeek-Sparse-Attention model"
        problems.append(Reason(text, STOCK))
    elif not state.summary_bytes:
        problems.append(Reason("no DSA KV pool was built, so there are no page summaries", alone))
    if state.graphs_missing_hisa and state.config.decode.active:
        rows = sorted(state.graphs_missing_hisa)
        problems.append(Reason(f"captured decode graphs call the stock indexer (rows {rows})", alone))
    if state.layers and decode_graphs and state.config.decode.active and not state.graphs:
        problems.append(
            Reason("no captured decode graph runs HISA", f"{alone}; or pass --disable-cuda-graph")
        )
    return problems


def around_init(original: Any, self: Any, server_args: Any, *args: Any, **kwargs: Any) -> None:
    """Refuse what HISA does not serve, build the scheduler, then prove what it serves."""
    state = runtime.current()
    state.gpu = gpu.find(_gpu_index(state, args, kwargs))
    model = _hf_config(server_args)
    problems = [
        *_not_dsa(model),
        *declined(server_args, model, linear_attention=_linear_attention(model)),
        *gpu.declined(state.gpu, state.config),
    ]
    if problems:
        refuse("HISA cannot serve this model with these flags on this machine", problems, FIX)
    if unverified := gpu.unverified(state.gpu):
        logger.warning("sglang-hisa: unverified: %s", unverified)
    for body in state.unverified:
        logger.warning("sglang-hisa: unverified: %s", body)
    if state.gpu and Device(0, state.gpu.capability).group == 1:
        state.config = alone(state.config)  # what is served, so that receipts and storage keys say it
    state.speculative = bool(server_args.speculative_algorithm)
    if server_args.enable_deterministic_inference:
        settle(state)
    original(self, server_args, *args, **kwargs)
    if torch.cuda.is_available():
        state.forward_stream = self.forward_stream
    missing = _check_receipt(state, _has_decode_graphs(self))
    if missing:
        refuse("the server is up but does not run HISA", missing)
    rehearse_prefill(state, self.tp_worker.model_runner)
    # Only the scheduler of a TP group that tells SGLang's own metrics: counters of all ranks would add up.
    if self.metrics_reporter.current_scheduler_metrics_enabled:
        labels = of_scheduler(self)
        self._hisa_metrics = [export(state, labels), LiveMetrics(state, labels)]
    logger.info("sglang-hisa receipt: %s", json.dumps(state.receipt(), sort_keys=True))


def before_idle(self: Any) -> None:
    """The last steps of a load reach ``/metrics`` even if no other step follows."""
    state = runtime.current()
    if state.on_idle is not None:
        state.on_idle()


def after_internal_state(result: Any, self: Any, recv_req: Any) -> Any:
    """Add the receipt to ``/server_info`` (under ``internal_states[i]["sglang_hisa"]``)."""
    result.internal_state["sglang_hisa"] = runtime.current().receipt()
    return result
