"""Candidates x heads: a prefill layer's time at each point of the frontier, stage by stage, on one GPU.

  python -m sglang_hisa.launch.bench.frontier --out FILE

The last 8192 rows of a prompt, 64 index heads, against the stock indexer in the same rounds. A point that
fails is recorded with its error, and the others go on; a batch of points is written as soon as it is there.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from sglang_hisa import PAGE
from sglang_hisa.indexer import Queries
from sglang_hisa.launch.bench.cases import Asked, Cache, check_rows, make_cache, make_queries
from sglang_hisa.launch.bench.frontier_record import FrontierRecord, FrontierRow
from sglang_hisa.launch.bench.routed import Layer, Point
from sglang_hisa.launch.common.files import save
from sglang_hisa.launch.common.help import tool
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.common.text import or_dash

K = 1024
TOPK = 2048
PAGES = 200_000
"""Below 2 GiB of index keys: stock's gather multiplies page numbers in 32 bits."""
FLOPS, L2_BYTES = 1979e12, 6.9e12
"""Dense fp8 operations a second by the datasheet of an H100 or H200 SXM; bytes a second from L2 as DeepGEMM's
paged kernel reached them on an H100 (kernels/NOTES.md)."""
SHARES = (1, 2, 8, 16, 4)
"""Candidates are the context divided by these."""
Timer = Callable[[Mapping[str, Callable[[], object]], int], dict[str, tuple[float, float, float]]]
"""Arms and rounds -> (median, p20, p80) microseconds of each arm."""


def batches(context: int) -> dict[str, list[Point]]:
    """Points to measure, those that decide most first."""
    quarter = context // 4
    tile = {64: 2, 32: 4, 16: 8, 8: 16}  # rows whose heads are 128 columns
    base = [Point(quarter, heads, group) for heads, group in tile.items()]
    today = [Point(quarter, 64, 2, refine="deepgemm"), Point(8 * K, 64, 2, 128, "deepgemm")]
    pairs = [Point(context // share, 32, 2, refine="deepgemm") for share in (8, 4, 2)]
    wide = [
        Point(quarter, 32, 4, refine="deepgemm"),
        Point(context, 32, 1, refine="deepgemm", workspace_mb=8192),
    ]
    grid = [Point(context // share, heads, tile[heads]) for share in SHARES for heads in (32, 16, 8)]
    grid = [point for point in grid if point not in base]
    groups = [(32, 8), (16, 4), (16, 2), (8, 8), (32, 2), (16, 16), (64, 4)]
    block128 = [Point(context // share, heads, tile[heads], 128) for share in (4, 2) for heads in (32, 16)]
    launch = [
        *(replace(point, warps=8) for point in base),
        *(replace(Point(quarter, heads, group), warps=8) for heads, group in ((32, 8), (16, 16), (64, 4))),
        *(replace(point, stages=stages) for point in base[1:3] for stages in (2, 4, 5)),
        *(replace(point, pages=pages) for point in base[1:3] for pages in (16, 256)),
    ]
    other = [
        *(replace(point, coarse_heads=heads) for point in base[1:3] for heads in (32,)),
        *(replace(base[2], workspace_mb=size) for size in (64, 128, 2048)),
        *(replace(today[0], workspace_mb=size) for size in (64, 2048)),
    ]
    found = {"today": today + pairs + wide, "base": base, "grid": grid}
    served = Point(quarter, 16, 8, stages=5)
    if context > 64 * K:
        found["served"] = [served, *(replace(served, block=128, stages=stages) for stages in (4, 5, 6))]
        found["launch"] = launch
        found["blocks of 128"] = block128
        found["groups"] = [Point(quarter, heads, group) for heads, group in groups]
        found["other"] = other
    least = TOPK + 2 * 128  # own and first block, and top-k
    return {name: [p for p in points if p.tokens >= least] for name, points in found.items()}


def gpu_timer(arms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float, float]]:
    """Interleaved, cold L2, kernels launched ahead of the GPU."""
    from sglang_hisa.launch.bench.timing import interleave

    return interleave(arms, rounds, 1, ahead=True)


class Bench:
    """One context: its inputs, the stock arm, and what was measured."""

    def __init__(
        self, cache: Cache, context: int, rows: int, heads: int, stock: Any, host: Any, timer: Timer
    ) -> None:
        """``stock``: :class:`sglang_hisa.patches.stock.StockPrefill`, or None without a GPU."""
        self.cache, self.context, self.rows, self.timer = cache, context, rows, timer
        self.host, self.stock = host, stock
        device = cache.layer.index_k.device
        self.table = torch.randperm(min(cache.pages, PAGES), device=device)[: -(-context // PAGE)]
        self.table = self.table.to(torch.int32)[None].contiguous()
        self.q, self.weights = make_queries(rows, heads, device=device)
        self.queries = Queries(self.q, self.weights, cache.layer)
        if stock is not None:
            self.stock = stock(context, rows, TOPK, self.table)

    def layer(self, point: Point) -> Layer:
        flat = self.flat if self.stock is not None else None
        return Layer(point, self.queries, self.table, self.context, self.host, flat)

    def flat(self, q: torch.Tensor, weights: torch.Tensor, rows: slice) -> torch.Tensor:
        """DeepGEMM's flat logits over gathered keys, as the stock indexer has them."""
        keys, scales = self.stock.gather(self.cache.layer.index_k)
        starts, ends = self.stock.starts[rows], self.stock.ends[rows]
        return self.host.flat_logits(q, keys, scales, weights, starts, ends, self.context)

    def stock_layer(self) -> torch.Tensor:
        found: torch.Tensor = self.stock.topk_v2(
            self.stock.logits(self.q, self.weights, *self.stock.gather(self.cache.layer.index_k))
        )
        return found

    def check(self, layer: Layer) -> None:
        """Raises ``AssertionError`` if some rows did not choose what plain PyTorch chooses."""
        sample = sorted({0, self.rows // 3, self.rows - 1})
        picks = torch.cat([part.picks for part in layer.parts]).tolist()
        if layer.point.coarse_heads:
            return  # blocks are chosen by other scores than those that the check computes
        asked = Asked(
            table_rows=[0] * self.rows,
            lengths=layer.lengths.tolist(),
            picks=picks,
            block=layer.point.block,
            topk=self.host.index_topk,
            group=layer.point.group,
            gathered=True,
            routed=Queries(*layer.route(layer.point.heads), self.cache.layer),
        )
        check_rows(layer(), self.queries, self.table, asked, sample)

    def measure(self, points: list[Point], rounds: int, batch: str = "") -> list[FrontierRow]:
        """Rows of the record: each point, or its error."""
        found: dict[Point, FrontierRow] = {}
        layers: dict[Point, Layer] = {}
        for point in points:
            whole = point.tokens >= self.context
            row = FrontierRow(
                context=self.context, rows=self.rows, batch=batch, all_tokens=whole, **asdict(point)
            )
            try:
                layer = self.layer(point)
                self.check(layer)
                layer()
                found[point] = replace(row, floor_us=layer.floors(FLOPS, L2_BYTES))
                layers[point] = layer
            except Exception as error:  # one bad shape must not lose the run
                found[point] = replace(row, error=f"{type(error).__name__}: {error}"[:2000])
                traceback.print_exc()
        arms: dict[str, Callable[[], object]] = {str(point): layer for point, layer in layers.items()}
        if self.stock is not None:
            arms = {"stock": self.stock_layer, **arms}
        totals = self.timer(arms, rounds)
        stock = totals.get("stock")
        for point, layer in layers.items():
            median, low, high = totals[str(point)]
            row = replace(found[point], us=round(median, 1), p20_us=round(low, 1), p80_us=round(high, 1))
            if stock is not None:
                row = replace(row, stock_us=round(stock[0], 1), speedup=round(stock[0] / median, 3))
            try:
                stages = layer.stages()
                times = self.timer({name: work for name, (work, _) in stages.items()}, max(3, rounds // 2))
                row = replace(row, stage_us={n: round(times[n][0] * stages[n][1], 1) for n in stages})
            except Exception as error:
                row = replace(row, error=f"stages: {type(error).__name__}: {error}"[:2000])
                traceback.print_exc()
            found[point] = row
        return list(found.values())

    def stock_stages(self, rounds: int) -> FrontierRow:
        """The stock layer on its own, with both of its top-k kernels."""
        keys, scales = self.stock.gather(self.cache.layer.index_k)
        logits = self.stock.logits(self.q, self.weights, keys, scales)
        arms = {
            "gather": lambda: self.stock.gather(self.cache.layer.index_k),
            "logits": lambda: self.stock.logits(self.q, self.weights, keys, scales),
            "topk v2": lambda: self.stock.topk_v2(logits),
            "topk legacy": lambda: self.stock.topk_legacy(logits),
        }
        times: dict[str, float | str] = {}
        for name, work in arms.items():
            try:
                times[name] = round(self.timer({name: work}, rounds)[name][0], 1)
            except Exception as error:
                times[name] = f"{type(error).__name__}: {error}"[:300]
        return FrontierRow(context=self.context, rows=self.rows, arm="stock", stage_us=times)


def line(row: FrontierRow) -> str:
    """A row of the record for a person."""
    if row.arm == "stock":
        return f"{row.context // K:4}K stock {row.stage_us}"
    name = (
        f"{row.context // K:4}K {row.tokens / K:5.1f}K x {row.heads:2} heads, {row.group:2} rows"
        f", block {row.block:3} {row.refine:8} w{row.warps} s{row.stages} p{row.pages} "
        f"{row.workspace_mb} MB coarse {row.coarse_heads or 'all'}"
    )
    if row.us is None:
        return f"{name}: {row.error}"
    return f"{name}: {row.us:8.1f} us {or_dash(row.speedup)}x {row.stage_us}"


def main(argv: list[str] | None = None) -> int:
    """Measure all points of all contexts, and write the record."""
    parser = tool("bench.frontier", "--out FILE", __doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="record (.json)")
    parser.add_argument("--contexts", type=int, nargs="+", default=[128 * K, 32 * K], help="tokens")
    parser.add_argument("--rows", type=int, default=8 * K, help="of the last chunk")
    parser.add_argument("--heads", type=int, default=64, help="index heads of the model")
    parser.add_argument("--batches", nargs="+", help="only those of these names (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each arm")
    parser.add_argument("--seconds", type=float, default=170, help="start no batch after so long")
    args = parser.parse_args(argv)

    from sglang_hisa.patches.stock import StockPrefill, serverless_kernels

    began = time.monotonic()
    record = FrontierRecord(provenance=Provenance(**provenance()), heads=args.heads, rounds=args.rounds)
    host, cache = serverless_kernels(TOPK), make_cache(PAGES)
    benches = {
        context: Bench(cache, context, args.rows, args.heads, StockPrefill, host, gpu_timer)
        for context in args.contexts
    }
    names = dict.fromkeys(name for context in args.contexts for name in batches(context))
    for name in args.batches or names:
        for context, bench in benches.items():
            if not (points := batches(context).get(name)):
                continue
            if time.monotonic() - began > args.seconds:
                record = replace(record, left_out=(*record.left_out, f"{context}: {name}"))
                continue
            rows: list[FrontierRow] = []
            try:
                rows += [bench.stock_stages(args.rounds)] if name == "today" else []
                rows += bench.measure(points, args.rounds, name)
            except Exception as error:  # after one that CUDA does not forget, every later batch fails as well
                why = f"{context}: {name}: {type(error).__name__}: {error}"[:2000]
                record = replace(record, left_out=(*record.left_out, why))
                traceback.print_exc()
            seconds = round(time.monotonic() - began, 1)
            record = replace(record, rows=(*record.rows, *rows), seconds=seconds)
            print(*map(line, rows), sep="\n", flush=True)
            save(record.as_json(), args.out.parent, args.out.name)
            torch.cuda.empty_cache()
    print(f"{record.seconds} s, left out: {', '.join(record.left_out) or 'nothing'}, wrote {args.out}")
    return 1 if record.left_out or any(row.error for row in record.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
