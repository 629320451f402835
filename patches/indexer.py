"""Adapters on SGLang's ``Indexer``: seal after each store, choose candidates before each score."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from sglang_hisa import PAGE, budget
from sglang_hisa import indexer as paths
from sglang_hisa.audit import Sample
from sglang_hisa.config import check_model, fitting
from sglang_hisa.counts import StockReason
from sglang_hisa.kernels.layout import HEAD_DIM
from sglang_hisa.kernels.tuning import TuningError, for_device
from sglang_hisa.patches import agreement, batch, runtime
from sglang_hisa.patches.plugin import STOCK, Reason, refuse
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
        refuse("the model, these settings and this GPU do not go together", problems)
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

    HISA's decode steps do so in the coarse launch that follows the store in the same layer; the stock graph,
    where nothing reads a summary, once after its last layer.

    That is right where each row stored one token, the last of its length. With speculative decoding
    (``spec_info``) none is so: a draft model's decode rows store past their length, and a verify or
    draft-extend row may read the page that an earlier row of its request completed in the same step.
    """
    one_token = forward_batch.forward_mode.is_decode() and forward_batch.spec_info is None
    return runtime.current().config.decode.active and one_token


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
    summaries.seal_tokens(layer_id, slots)


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


@dataclass(frozen=True)
class Step:
    """What a step's layers share."""

    plan: Plan
    sample: Sample | None = None


def _cached_step(forward_batch: Any, layer_id: int, metadata: Any) -> Step | StockReason | None:
    """What an earlier layer of the same step made: its plan, or the reason to leave it to stock.

    A forward visits layers in ascending order, so a layer that is not above the last one starts a new
    forward over the same batch object (graph warm-up and capture, draft steps).
    """
    kept = getattr(forward_batch, "_hisa_step", None)
    if kept is None or kept[0] is not metadata.attn_metadata or layer_id <= kept[1]:
        return None
    forward_batch._hisa_step = (kept[0], layer_id, kept[2])
    made: Step | StockReason = kept[2]
    return made


def _keep_step(
    forward_batch: Any, layer_id: int, metadata: Any, step: Step | StockReason
) -> Step | StockReason:
    forward_batch._hisa_step = (metadata.attn_metadata, layer_id, step)
    return step


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
    state.rows.add(kind, plan.rows.lengths, plan.of_rows("candidates"), padding)


def _longest_padding(metadata: Any, rows: int) -> int:
    """Tokens that a padded row of a graph may have: SGLang's fill value 1, and a request's draft tokens."""
    each = rows // metadata.get_seqlens_int32().shape[0]
    return 1 if each == 1 else 1 + each


def _setup(state: runtime.Runtime, stock: SglangKernels, summaries: PageSummaries) -> Setup:
    return Setup(state.config, stock, summaries.backend)


def _decode_step(
    state: runtime.Runtime,
    forward_batch: Any,
    layer_id: int,
    metadata: Any,
    stock: SglangKernels,
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
    setup = _setup(state, stock, _summaries(layer_id)[0])
    plan = make_decode_plan(view, setup, refine_of(state, q, rows), seals=_rows_seal(forward_batch))
    state.count_hisa(_step_name(forward_batch))
    _count_rows(state, "decode", plan, padding)
    return Step(plan)


def _stock_decode(
    state: runtime.Runtime, reason: StockReason, layer_id: int, metadata: Any, rows: int, capturing: bool
) -> None:
    """A layer of a step that the stock indexer serves: note its graph, and seal after the last layer."""
    second = reason is StockReason.DECODE_NOTHING_TO_GAIN
    if capturing:
        (state.stock_decode_graphs if second else state.graphs_missing_hisa).add(rows)
    if second:
        summaries, _ = _summaries(layer_id)
        if layer_id == summaries.served(state.layers)[-1]:
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
    stock = SglangKernels(self, metadata)
    step = _cached_step(forward_batch, layer_id, metadata)
    if step is None:
        made = _decode_step(state, forward_batch, layer_id, metadata, stock, q_fp8, rows)
        step = _keep_step(forward_batch, layer_id, metadata, made)
    if isinstance(step, StockReason):
        _stock_decode(state, step, layer_id, metadata, rows, capturing=_capturing(q_fp8))
        return original(self, forward_batch, layer_id, q_fp8, weights, metadata)
    summaries, pool = _summaries(layer_id)
    pool.get_index_k_with_scale_buffer(layer_id=layer_id)  # waits for this layer's host-to-device load
    if _capturing(q_fp8):
        state.graphs.add(rows)
    queries = paths.Queries(q_fp8[:rows], weights.squeeze(2)[:rows], summaries.layer(layer_id))
    setup = _setup(state, stock, summaries)
    chosen = paths.select(queries, step.plan, setup, output_of(metadata, rows))
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
    layer_id: int,
    metadata: Any,
    stock: SglangKernels,
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
    summaries, _ = _summaries(layer_id)
    setup = _setup(state, stock, summaries)
    plan = make_prefill_plan(view, contexts, setup, refine_of(state, q), segments, heads=q.shape[1])
    if summaries.draft:  # its choice costs accepted drafts, never an answer
        return Step(plan)
    return Step(plan, state.audit.sample(plan, contexts, setup))


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
    stock = SglangKernels(self, metadata, prefill=True)
    step = _cached_step(forward_batch, layer_id, metadata)
    if step is None:
        made = _prefill_step(state, forward_batch, layer_id, metadata, stock, q_fp8)
        step = _keep_step(forward_batch, layer_id, metadata, made)
        if isinstance(made, StockReason):
            state.count_stock(made, metadata.get_seqlens_expanded().shape[0])
        else:
            state.count_hisa("prefill")
            _count_rows(state, "prefill", made.plan)
    if isinstance(step, StockReason):
        return original(
            self, enable_dual_stream, forward_batch, layer_id, q_fp8, weights, metadata, topk_result
        )
    summaries, pool = _summaries(layer_id)
    pool.get_index_k_with_scale_buffer(layer_id=layer_id)  # waits for this layer's host-to-device load
    rows = step.plan.rows.lengths.shape[0]
    queries = paths.Queries(q_fp8[:rows], weights.squeeze(-1)[:rows], summaries.layer(layer_id))
    setup, output = _setup(state, stock, summaries), output_of(metadata, rows)
    chosen = paths.select(queries, step.plan, setup, output, out=topk_result)
    if step.sample is not None:
        state.audit.observe(layer_id, step.sample, chosen, queries, setup, output)
    return _padded(chosen, q_fp8.shape[0])
