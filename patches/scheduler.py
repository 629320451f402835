"""Adapters on the scheduler: decline before the model loads, write the receipt once it is ready."""

from __future__ import annotations

import json
import logging
from typing import Any

import torch

from sglang_hisa.config import cpu_stand_ins_requested, only_ours
from sglang_hisa.patches import runtime
from sglang_hisa.patches.features import declined
from sglang_hisa.patches.live_metrics import LiveMetrics
from sglang_hisa.patches.metrics import export
from sglang_hisa.patches.plugin import STOCK, Reason, refuse
from sglang_hisa.patches.rehearsal import rehearse_prefill

logger = logging.getLogger(__name__)

FLAGS = f"change the flags as each reason says; where it is about the model itself, {STOCK}"


def _hf_config(server_args: Any) -> Any:
    from sglang.srt.utils.hf_transformers.config import get_config

    overrides = json.loads(getattr(server_args, "json_model_override_args", None) or "{}")
    return get_config(
        server_args.model_path,
        trust_remote_code=server_args.trust_remote_code,
        model_override_args=overrides,
    )


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
    if state.stock_graphs and state.config.decode.active:
        rows = sorted(state.stock_graphs)
        problems.append(Reason(f"captured decode graphs call the stock indexer (rows {rows})", alone))
    if state.layers and decode_graphs and state.config.decode.active and not state.graphs:
        problems.append(
            Reason("no captured decode graph runs HISA", f"{alone}; or pass --disable-cuda-graph")
        )
    return problems


def around_init(original: Any, self: Any, server_args: Any, *args: Any, **kwargs: Any) -> None:
    """Refuse what HISA does not serve, build the scheduler, then prove what it serves."""
    state = runtime.current()
    problems = declined(server_args, _hf_config(server_args), state.sglang)
    if problems:
        refuse("these settings are not served by HISA", problems, FLAGS)
    state.speculative = bool(server_args.speculative_algorithm)
    original(self, server_args, *args, **kwargs)
    if torch.cuda.is_available():
        state.forward_stream = self.forward_stream
    missing = _check_receipt(state, _has_decode_graphs(self))
    if missing:
        refuse("the server is up but does not run HISA", missing)
    rehearse_prefill(state, self.tp_worker.model_runner)
    # Only the scheduler of a TP group that tells SGLang's own metrics: counters of all ranks would add up.
    if self.metrics_reporter.current_scheduler_metrics_enabled:
        self._hisa_metrics = [export(state), LiveMetrics(state)]
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
