"""Decode rows of the kernel benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sglang_hisa import kernels
from sglang_hisa.budget import Rule, make_rule, sink_blocks
from sglang_hisa.config import PAGE, Config
from sglang_hisa.indexer import Output, Rows, make_decode_plan, select, token_logits
from sglang_hisa.kernels.layout import ROW_BYTES
from sglang_hisa.launch.bench.cases import Cache, check_rows, make_queries
from sglang_hisa.launch.bench.timing import capture, interleave
from sglang_hisa.patches.stock import StockDecode, bench_host

TOPK = 2048
COLD_BYTES = 300 << 20
"""Pages that one timed graph touches, several times the L2 cache."""


def layers_for(batch: int, context: int, pages: int) -> int:
    """Layers in one timed graph: enough for cold pages, few enough for the cache."""
    each = batch * -(-context // PAGE)
    return max(1, min(48, -(-COLD_BYTES // (each * ROW_BYTES)), pages // each))


def floors(rule: Rule, batch: int, context: int, bandwidth: float) -> float:
    """Least time of a layer in us: summaries of all blocks and keys of the candidates, read once."""
    earlier = (context - 1) // rule.block
    kept = min(rule.count(context), earlier + 1)
    coarse = 0 if kept > earlier else earlier * (rule.block // PAGE) * 132
    return batch * (coarse + kept * rule.block * 132) / bandwidth * 1e6


def run_case(
    cache: Cache,
    context: int,
    batch: int,
    heads: int,
    config: Config,
    refine: str,
    repeats: int,
    bandwidth: float,
) -> list[dict[str, Any]]:
    """Rows of one cell: total and each stage. Raises ``AssertionError`` if HISA chose wrongly."""
    host = bench_host(TOPK)
    rule = make_rule(config, "decode", TOPK, 0, 0)
    pages = -(-context // PAGE)
    layers = layers_for(batch, context, cache.pages)
    # A layer's pages lie in one region, as in its own buffer, in random order.
    region = batch * pages
    order = [torch.randperm(region, device="cuda", dtype=torch.int32) + i * region for i in range(layers)]
    tables = torch.stack(order).view(layers, batch, pages)
    # Ragged, as in a server: of 64 consecutive lengths one completes a page, so one row in 64 seals.
    ragged = [context - 1 - row * 37 % PAGE for row in range(batch)]
    lengths = torch.tensor(ragged, dtype=torch.int32, device="cuda")
    q, weights = make_queries(batch, heads)
    stock = StockDecode(lengths, TOPK)
    layer = cache.layer
    plans = []
    for table in tables:
        rows = Rows(lengths, table, None, pages * PAGE, rule.blocks, rule.share, rule.width(pages * PAGE))
        plans.append(make_decode_plan(rows, config, host, refine, seals=True))
    output = Output(physical=True)

    # Within the budget the server replays its stock graph, which seals once, after its last layer.
    fits = rule.fits(pages * PAGE)
    sealed = [(layer.index_k, layer.keys, layer.scales)] * layers
    offsets = kernels.layer_offsets(sealed)

    def hisa(i: int) -> torch.Tensor:
        if fits:
            if i == layers - 1:
                kernels.seal_rows(sealed, offsets, tables[i], lengths, "triton")
            return stock(q, weights, layer.index_k, tables[i])
        return select(q, weights, layer, plans[i], config, host, output, "triton")

    picks = plans[0].chunks[0].picks.tolist()
    picked = sorted({0, batch // 2, batch - 1})
    check_rows(
        hisa(0), q, weights, layer, tables[0], list(range(batch)), ragged, picks, rule.block, picked, TOPK
    )

    chunk = plans[0].chunks[0]

    part, out_of = plans[0].score_blocks, torch.empty
    scores = [out_of((batch, part), dtype=torch.float32, device="cuda") for _ in tables]
    physical = [out_of((batch, plans[0].rows.width), dtype=torch.int32, device="cuda") for _ in tables]

    def coarse_(i: int) -> None:
        args = (tables[i], None, lengths, chunk.picks, config.pages_per_block, scores[i], "triton")
        kernels.coarse_scores(
            q, weights, layer.keys, layer.scales, *args, seal_from=layer.index_k, overlap=True
        )

    def pick_(i: int) -> None:
        args = (lengths, chunk.picks, tables[i], None, config.pages_per_block, sink_blocks(config, 0))
        overlap = {"overlap": True, "early": True}
        kernels.pick_pages(scores[i], *args, config.local_tokens, physical[i], None, "triton", **overlap)

    def refine_(i: int) -> torch.Tensor:
        return token_logits(q, weights, layer, plans[0], chunk, physical[i], host, "triton")

    for i in range(layers):
        coarse_(i)
        pick_(i)
    logits = refine_(0)
    stock_logits = stock.logits(q, weights, layer.index_k, tables[0])
    slots = torch.randint(0, region * PAGE, (batch,), device="cuda", dtype=torch.int64)
    each: dict[str, tuple[Callable[[int], object] | None, Callable[[int], object]]] = {
        "total": (lambda i: stock(q, weights, layer.index_k, tables[i]), hisa),
        "seal": (
            None,
            lambda i: kernels.seal_tokens(layer.index_k, slots, layer.keys, layer.scales, "triton"),
        ),
        "coarse": (None, coarse_),
        "pick": (None, pick_),
        "refine": (lambda i: stock.logits(q, weights, layer.index_k, tables[i]), refine_),
        "topk": (
            lambda i: stock.topk_slots(stock_logits, tables[i]),
            lambda i: host.topk_slots(logits, chunk.candidates, physical[i], chunk.topk_plan),
        ),
    }
    if fits:
        each = {"total": each["total"]}
    arms, graphs = {}, []
    for stage, pair in each.items():
        for arm, work in zip(("stock", "hisa"), pair):
            if work is not None:

                def all_layers(work: Callable[[int], object] = work) -> list[object]:
                    return [work(i) for i in range(layers)]

                graphs.append(capture(all_layers))
                arms[f"{stage}:{arm}"] = graphs[-1].replay
    times = interleave(arms, repeats, layers)
    rows_out = []
    for stage in each:
        ours, theirs = times[f"{stage}:hisa"], times.get(f"{stage}:stock")
        rows_out.append(
            {
                "phase": "decode",
                "context": context,
                "batch": batch,
                "heads": heads,
                "budget": rule.count(context) * rule.block,
                "block": rule.block,
                "preset": config.preset,
                "refine": refine,
                "stage": stage,
                "layers": layers,
                "stock_us": theirs and round(theirs[0], 2),
                "stock_p20_us": theirs and round(theirs[1], 2),
                "stock_p80_us": theirs and round(theirs[2], 2),
                "hisa_us": round(ours[0], 2),
                "hisa_p20_us": round(ours[1], 2),
                "hisa_p80_us": round(ours[2], 2),
                "speedup": theirs and round(theirs[0] / ours[0], 3),
                "floor_us": round(floors(rule, batch, context, bandwidth), 2) if stage == "total" else None,
            }
        )
    return rows_out
