"""Adapters on SGLang's ``Indexer``: seal after each store, choose candidates before each score."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from sglang_hisa import PAGE, budget
from sglang_hisa import indexer as paths
from sglang_hisa.config import check_model, fitting
from sglang_hisa.counts import StockReason
from sglang_hisa.kernels.layout import HEAD_DIM
from sglang_hisa.kernels.tuning import TuningError, for_device
from sglang_hisa.patches import agreement, batch, runtime, steps
from sglang_hisa.patches.plugin import STOCK, Reason, refuse
from sglang_hisa.patches.steps import Step
from sglang_hisa.patches.stock_kernels import SglangKernels
from sglang_hisa.plan import Plan, Rows, Setup, make_decode_plan, make_prefill_plan, refine_kernel
from sglang_hisa.segments import Segment, of_request
from sglang_hisa.summaries import PageSummaries


def after_init(result: None, self: Any, *args: Any, **kwargs: Any) -> None:
    """Check the budget against this model and count the layer."""
    state = runtime.current()
    fix = fitting(state.config, self.index_topk)
    problems = [Reason(text, fix) for text in check_model(state.config, self.index_topk, PAGE)]
    if self.head_dim != HEAD_DIM:
        text = f"index_head_dim is {self.head_dim}; HISA's kernels are written for {HEAD_DIM}"
        problems.append(Reason(text, STOCK))
    try:
        on_gpu = torch.cuda.is_available()
        state.tuning = asdict(for_device(torch.device("cuda" if on_gpu else "cpu")))
    except TuningError as error:
        problems.append(Reason(str(error), error.fix))
    if problems:
        refuse("these settings do not fit this model or this GPU", problems)
    agreement.check_once(state)  # here: before the weights are loaded
    if not _shares_choice(kwargs.get("config"), self.layer_id):
        state.layers.add(self.layer_id)


def _shares_choice(config: Any, layer_id: int) -> bool:
    """Whether the layer reuses an earlier layer's choice (``index_topk_freq`` and its kin).

    0.5.17 builds an indexer there that never runs, 0.5.23 builds none. LongCat's ``cli_factor`` is read by
    0.5.17's model and by 0.5.23's ``dsa_layer_skips_topk``.
    """
    from sglang.srt.configs.model_config import dsa_layer_skips_topk

    if config is None:
        return False
    factor = getattr(config, "cli_factor", None) or 1
    return layer_id % factor != 0 if factor > 1 else bool(dsa_layer_skips_topk(config, layer_id))


def _summaries(layer_id: int) -> tuple[PageSummaries, Any]:
    from sglang.srt.layers.attention.dsa import dsa_indexer

    pool = dsa_indexer.get_token_to_kv_pool()
    summaries = getattr(pool, "_hisa_summaries", None)
    if summaries is None:
        raise RuntimeError(
            f"sglang-hisa: {type(pool).__name__} has no page summaries (layer {layer_id}); "
            "this pool is not supported and should have been declined at start"
        )
    return summaries, pool


def _rows_seal(forward_batch: Any) -> bool:
    """Whether a step seals what its rows completed, not what it stored: fewer launches.

    HISA's decode steps do so in the coarse launch that follows the store in the same layer; steps left to
    stock DSA, where nothing reads a summary, once after their last layer.

    That is right where each row stored one token, the last of its length. With speculative decoding
    (``spec_info``) none is so: a draft model's decode rows store past their length, and a verify or
    draft-extend row may read the page that an earlier row of its request completed in the same step.
    """
    return bool(forward_batch.forward_mode.is_decode() and forward_batch.spec_info is None)


def _step_name(forward_batch: Any) -> str:
    """What the receipt calls a step of rows that have the decode budget."""
    if forward_batch.forward_mode.is_target_verify():
        return "verify"
    if forward_batch.forward_mode.is_draft_extend_v2():
        return "draft extend"
    return "decode" if forward_batch.spec_info is None else "draft"


def _seal(forward_batch: Any, layer_id: int, out_cache_loc: torch.Tensor | None) -> None:
    if _rows_seal(forward_batch):
        return
    slots = forward_batch.out_cache_loc if out_cache_loc is None else out_cache_loc
    summaries, _ = _summaries(layer_id)
    # A draft model's pool has one layer. Elsewhere a launch a layer is half of what HISA costs such a step.
    if summaries.draft or not steps.left_to_stock(forward_batch, summaries, layer_id):
        summaries.seal_tokens(layer_id, slots)
    elif summaries.is_last(layer_id, runtime.current().layers):
        summaries.seal_tokens(None, slots)


def after_store(
    result: None,
    self: Any,
    forward_batch: Any,
    layer_id: int,
    key: torch.Tensor,
    *,
    act_quant: Any = None,
    out_cache_loc: torch.Tensor | None = None,
) -> None:
    """After ``_store_index_k_cache``, on the stream that stored."""
    _seal(forward_batch, layer_id, out_cache_loc)


def after_fused_store(
    result: None,
    self: Any,
    key_raw: torch.Tensor,
    positions: torch.Tensor,
    forward_batch: Any,
    layer_id: int,
    act_quant: Any,
    out_cache_loc: torch.Tensor | None = None,
) -> None:
    """After ``_fused_k_prepare_and_store``, which may call the other store: sealing twice is harmless."""
    _seal(forward_batch, layer_id, out_cache_loc)


def output_of(metadata: Any, rows: int) -> paths.Output:
    from sglang.srt.environ import envs
    from sglang.srt.layers.attention.dsa.dsa_topk_backend import TopkTransformMethod

    if not envs.SGLANG_DSA_FUSE_TOPK.get() or metadata.force_unfused_topk:
        return paths.Output(physical=False)
    if metadata.topk_transform_method == TopkTransformMethod.RAGGED:
        return paths.Output(physical=False, offsets=metadata.attn_metadata.topk_indices_offset[:rows])
    return paths.Output(physical=True)


def refine_of(state: runtime.Runtime, q: torch.Tensor, decode_rows: int | None = None) -> str:
    """Kernel of the token scores of this step. The receipt says what any step of this server has."""
    shape = (state.config.refine, q.device, q.shape[1])
    many, few = refine_kernel(*shape), refine_kernel(*shape, 1)
    limit = for_device(q.device).refine_rows
    state.refine = many if few == many else f"{many}; {few} up to {limit} rows of decode"
    return refine_kernel(*shape, decode_rows)


def rule_of(state: runtime.Runtime, phase: str, stock: SglangKernels) -> budget.Rule:
    return budget.make_rule(state.config, phase, stock.index_topk, stock.init_tokens, stock.local_tokens)


def _capturing(q: torch.Tensor) -> bool:
    return bool(q.is_cuda and torch.cuda.is_current_stream_capturing())


def _count_rows(state: runtime.Runtime, kind: str, plan: Plan, padding: int = 0) -> None:
    """After the plan: a kernel of the first layer may start before the one that comes right before it has
    ended, and reads the plan."""
    state.rows.add(kind, plan.rows.lengths, plan.of_rows("candidates"), padding)


def _longest_padding(metadata: Any, rows: int) -> int:
    """Tokens that a padded row of a graph may have: SGLang's fill value 1, and a request's draft tokens."""
    each = rows // metadata.get_seqlens_int32().shape[0]
    return 1 if each == 1 else 1 + each


def _decode_step(
    state: runtime.Runtime,
    forward_batch: Any,
    metadata: Any,
    stock: SglangKernels,
    summaries: PageSummaries,
    q: torch.Tensor,
    rows: int,
) -> Step | StockReason:
    """Plan of a step of decode, verify, draft or draft-extend rows, which all have the decode budget, or the
    reason to leave it to the stock indexer. Counts it, in a graph too."""
    if rows == 0:
        state.count_stock(StockReason.DECODE_NO_ROWS)
        return StockReason.DECODE_NO_ROWS
    lengths = metadata.get_seqlens_expanded()[:rows]
    padding = _longest_padding(metadata, rows)
    if state.capturing_stock or not state.config.decode.active:
        reason = StockReason.DECODE_NOTHING_TO_GAIN if state.capturing_stock else StockReason.DECODE_OFF
        state.count_stock(reason)
        state.rows.add(reason, lengths, lengths, padding)
        return reason
    table = metadata.get_page_table_64()
    rule = state.decode_rule = rule_of(state, "decode", stock)
    bound = table.shape[1] * PAGE
    view = Rows(
        lengths=lengths,
        table=table,
        table_rows=None,
        max_length=bound,
        blocks=rule.blocks,
        share=rule.share,
        width=rule.width(bound),
    )
    setup = Setup(state.config, stock, summaries.backend)
    plan = make_decode_plan(view, setup, refine_of(state, q, rows), seals=_rows_seal(forward_batch))
    state.count_hisa(_step_name(forward_batch))
    _count_rows(state, "decode", plan, padding)
    return Step(plan, setup, output_of(metadata, rows))


def _seal_after_last(
    state: runtime.Runtime,
    forward_batch: Any,
    layer_id: int,
    metadata: Any,
    summaries: PageSummaries,
    rows: int,
) -> None:
    """In the last layer of a decode step that the stock indexer serves."""
    if rows and _rows_seal(forward_batch) and summaries.is_last(layer_id, state.layers):
        summaries.seal_rows(metadata.get_page_table_64(), metadata.get_seqlens_expanded()[:rows])


def around_topk_paged(
    original: Any,
    self: Any,
    forward_batch: Any,
    layer_id: int,
    q_fp8: torch.Tensor,
    weights: torch.Tensor,
    metadata: Any,
) -> torch.Tensor:
    """Rows that each see a whole request: decode, verify, draft-extend; eager or in a graph."""
    state = runtime.current()
    rows = sum(metadata.get_dsa_extend_len_cpu())
    summaries, pool = _summaries(layer_id)
    step = steps.kept(forward_batch, layer_id, metadata)
    if step is None:
        stock = SglangKernels(self, metadata)
        step = _decode_step(state, forward_batch, metadata, stock, summaries, q_fp8, rows)
        steps.keep(forward_batch, summaries, layer_id, metadata, step)
    if _capturing(q_fp8):
        state.note_graph(rows, hisa=isinstance(step, Step))
    if isinstance(step, StockReason):
        _seal_after_last(state, forward_batch, layer_id, metadata, summaries, rows)
        return original(self, forward_batch, layer_id, q_fp8, weights, metadata)
    pool.get_index_k_with_scale_buffer(layer_id=layer_id)  # waits for this layer's host-to-device load
    queries = paths.Queries(q_fp8[:rows], weights.squeeze(2)[:rows], summaries.layer(layer_id))
    chosen = paths.select(queries, step.plan, step.setup, step.output)
    return _padded(chosen, q_fp8.shape[0])


def _padded(chosen: torch.Tensor, rows: int) -> torch.Tensor:
    """The choice of a step's rows, and -1 for those that SGLang padded it with."""
    if len(chosen) >= rows:  # padding by nothing would be a copy, in each layer of each step
        return chosen
    return torch.nn.functional.pad(chosen, (0, 0, 0, rows - len(chosen)), value=-1)


def _segments(
    state: runtime.Runtime,
    contexts: list[int],
    counts: list[int],
    prompts: list[int | None],
    stock: SglangKernels,
) -> list[Segment]:
    """Rows of an extend step by request and budget; ``prompts`` as in :func:`batch.prompts`."""
    decode, prefill = rule_of(state, "decode", stock), rule_of(state, "prefill", stock)
    tail = state.config.dense_tail_tokens
    found: list[Segment] = []
    start = 0
    for context, count, prompt in zip(contexts, counts, prompts):
        if prompt is None:
            found += of_request(start, count, context, decode, prompt=context, tail=0)
        else:
            group = state.config.prefill_group
            found += of_request(start, count, context, prefill, prompt=prompt, tail=tail, group=group)
        start += count
    return found


def _prefill_step(
    state: runtime.Runtime,
    forward_batch: Any,
    metadata: Any,
    stock: SglangKernels,
    summaries: PageSummaries,
    q: torch.Tensor,
) -> Step | StockReason:
    """Plan of an extend step, or the reason to leave the whole step to the stock indexer."""
    if getattr(forward_batch, "attn_cp_metadata", None) is not None:
        return StockReason.PREFILL_CONTEXT_PARALLEL
    lengths = metadata.get_seqlens_expanded()
    if lengths.shape[0] == 0:
        return StockReason.PREFILL_NO_ROWS
    contexts = metadata.get_indexer_seq_len_cpu().tolist()
    counts = metadata.get_dsa_extend_len_cpu()
    prompts = batch.prompts(forward_batch, contexts)
    if prompts is None or sum(counts) != lengths.shape[0]:
        return StockReason.PREFILL_NO_REQUEST
    if not state.config.prefill.active and any(prompt is not None for prompt in prompts):
        return StockReason.PREFILL_OFF
    segments = _segments(state, contexts, counts, prompts, stock)
    if all(segment.fits for segment in segments):
        tail = any(segment.rule is budget.KEEP_EVERYTHING for segment in segments)
        return StockReason.PREFILL_END_OF_PROMPTS if tail else StockReason.PREFILL_FITS

    rows_of, table = metadata.get_token_to_batch_idx(), metadata.get_page_table_64()
    view = Rows.of_segments(lengths, table, rows_of, segments)
    setup, output = Setup(state.config, stock, summaries.backend), output_of(metadata, lengths.shape[0])
    plan = make_prefill_plan(view, contexts, setup, refine_of(state, q), segments, heads=q.shape[1])
    # A draft model's choice costs accepted drafts, never an answer.
    sample = None if summaries.draft else state.audit.sample(plan, contexts, setup)
    return Step(plan, setup, output, sample)


def around_topk_ragged(
    original: Any,
    self: Any,
    enable_dual_stream: bool,
    forward_batch: Any,
    layer_id: int,
    q_fp8: torch.Tensor,
    weights: torch.Tensor,
    metadata: Any,
    topk_result: torch.Tensor | None = None,
) -> torch.Tensor:
    """Prefill rows, chunked or not, possibly mixed with decode rows."""
    state = runtime.current()
    summaries, pool = _summaries(layer_id)
    step = steps.kept(forward_batch, layer_id, metadata)
    if step is None:
        stock = SglangKernels(self, metadata, prefill=True)
        step = _prefill_step(state, forward_batch, metadata, stock, summaries, q_fp8)
        steps.keep(forward_batch, summaries, layer_id, metadata, step)
        if isinstance(step, StockReason):
            state.count_stock(step, metadata.get_seqlens_expanded().shape[0])
        else:
            state.count_hisa("prefill")
            _count_rows(state, "prefill", step.plan)
    if isinstance(step, StockReason):
        return original(
            self, enable_dual_stream, forward_batch, layer_id, q_fp8, weights, metadata, topk_result
        )
    pool.get_index_k_with_scale_buffer(layer_id=layer_id)  # waits for this layer's host-to-device load
    rows = step.plan.rows.lengths.shape[0]
    queries = paths.Queries(q_fp8[:rows], weights.squeeze(-1)[:rows], summaries.layer(layer_id))
    chosen = paths.select(queries, step.plan, step.setup, step.output, out=topk_result)
    if step.sample is not None:
        state.audit.observe(layer_id, step.sample, chosen, queries, step.setup, step.output)
    return _padded(chosen, q_fp8.shape[0])
