"""Prefill rows of the kernel benchmark: the last chunk of one request."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sglang_hisa import PAGE
from sglang_hisa.budget import make_rule
from sglang_hisa.config import Config
from sglang_hisa.indexer import Output, Queries, block_scores, gather, picked, select, token_logits
from sglang_hisa.launch.bench.cases import Asked, Cache, check_rows, make_queries
from sglang_hisa.launch.bench.record import KernelRow
from sglang_hisa.launch.bench.timing import host_us, interleave
from sglang_hisa.patches.stock import StockPrefill, serverless_kernels
from sglang_hisa.plan import Rows, Setup, make_prefill_plan, refine_kernel
from sglang_hisa.segments import of_request

TOPK = 2048


def run_case(
    cache: Cache,
    context: int,
    rows: int,
    heads: int,
    config: Config,
    refine: str,
    repeats: int,
    flops: float,
) -> list[KernelRow]:
    """Rows of one cell: total and each stage. Raises ``AssertionError`` if HISA chose wrongly."""
    setup = Setup(config, serverless_kernels(TOPK), "triton")
    refine = refine_kernel(refine, torch.device("cuda"), heads)
    rule = make_rule(config, "prefill", TOPK, 0, 0)
    pages = -(-context // PAGE)
    # Below 2 GiB: stock's key gather (index_buf_accessor.py) multiplies page ids in 32 bits.
    table = (
        torch.randperm(min(cache.pages, 200_000), device="cuda")[:pages].to(torch.int32)[None].contiguous()
    )
    q, weights = make_queries(rows, heads)
    stock = StockPrefill(context, rows, TOPK, table)
    layer = cache.layer
    queries = Queries(q, weights, layer)
    which = torch.zeros(rows, dtype=torch.int32, device="cuda")
    tail, group = config.dense_tail_tokens, config.prefill_group
    segments = of_request(0, rows, context, rule, context, tail, group)
    step = Rows.of_segments(stock.ends, table, which, segments)
    plan = make_prefill_plan(step, [context], setup, refine, segments, heads=heads)
    whole = all(segment.fits for segment in segments)

    def hisa() -> torch.Tensor:
        if whole:  # the adapter leaves such a step to the stock indexer
            return stock_total()
        return select(queries, plan, setup, Output(physical=True))

    keys, scales = stock.gather(layer.index_k)
    stock_logits = stock.logits(q, weights, keys, scales)
    topks: dict[str, Callable[[], torch.Tensor]] = {
        "legacy": lambda: stock.topk_legacy(stock_logits),
        "v2": lambda: stock.topk_v2(stock_logits),
    }
    probe = interleave(topks, 5, 1, ahead=True)
    best = min(probe, key=lambda name: probe[name][0])
    pick_topk = stock.topk_legacy if best == "legacy" else stock.topk_v2

    def stock_total() -> torch.Tensor:
        return pick_topk(stock.logits(q, weights, *stock.gather(layer.index_k)))

    check_rows(
        hisa(),
        queries,
        table,
        Asked(
            table_rows=[0] * rows,
            lengths=stock.ends.tolist(),
            picks=plan.of_rows("picks").tolist(),
            block=rule.block,
            topk=TOPK,
            group=plan.group,
            gathered=plan.gathered is not None,
            routed=queries.routed(plan.chunks[0], "torch"),
        ),
        rows=[0, rows // 3, rows - 1],
    )

    each: dict[str, tuple[Callable[[], object] | None, Callable[[], object] | None]] = {
        "total": (stock_total, hisa)
    }
    if not whole and len(segments) == 1:
        chunk = plan.chunks[0]
        part = slice(chunk.start, chunk.stop)
        own = queries.at(part)
        share = rows / (chunk.stop - chunk.start)
        summary = gather(layer, plan, setup)

        def coarse() -> torch.Tensor:
            return block_scores(own, plan, chunk, setup, summary)

        scores = coarse()

        def pick() -> torch.Tensor:
            return picked(scores, plan, chunk, setup, logical=False)[0]

        physical = pick()

        def refine_() -> torch.Tensor:
            return token_logits(own.routed(chunk, setup.backend), plan, chunk, setup, physical)

        logits = refine_()
        each["refine"] = (lambda: stock.logits(q, weights, keys, scales), refine_)
        each["topk"] = (
            topks[best],
            lambda: setup.stock.topk_slots(logits, chunk.candidates, physical, chunk.topk_plan),
        )
        each["coarse"], each["pick"] = (None, coarse), (None, pick)
    arms = {
        f"{stage}:{arm}": work
        for stage, pair in each.items()
        for arm, work in zip(("stock", "hisa"), pair)
        if work is not None
    }
    times = interleave(arms, repeats, 1, ahead=True)
    host_times = {arm: host_us(arms[f"total:{arm}"], repeats) for arm in ("stock", "hisa")}
    budget = rule.count(context) * rule.block
    earlier = (context - 1) // rule.block
    scored = sum(s.count * (context if s.fits else budget + earlier) for s in segments)
    floor = scored * heads * 128 * 2 / flops * 1e6
    out = []
    for stage in each:
        ours, theirs = times[f"{stage}:hisa"], times.get(f"{stage}:stock")
        scale = 1.0 if stage == "total" else share
        out.append(
            KernelRow(
                phase="prefill",
                context=context,
                rows=rows,
                heads=heads,
                budget=min(budget, context),
                block=rule.block,
                group=config.prefill_group,
                tail=config.dense_tail_tokens,
                head_share=config.prefill_heads,
                preset=config.preset,
                refine=refine,
                stage=stage,
                stock_topk=best,
                stock_us=theirs and round(theirs[0], 1),
                stock_p20_us=theirs and round(theirs[1], 1),
                stock_p80_us=theirs and round(theirs[2], 1),
                hisa_us=round(ours[0] * scale, 1),
                hisa_p20_us=round(ours[1] * scale, 1),
                hisa_p80_us=round(ours[2] * scale, 1),
                speedup=theirs and round(theirs[0] / (ours[0] * scale), 3),
                floor_us=round(floor, 1) if stage == "total" else None,
                stock_host_us=round(host_times["stock"], 1) if stage == "total" else None,
                hisa_host_us=round(host_times["hisa"], 1) if stage == "total" else None,
            )
        )
    return out
