"""Decode rows of the kernel benchmark."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sglang_hisa import PAGE, kernels
from sglang_hisa.budget import Rule, make_rule, sink_blocks
from sglang_hisa.config import Config
from sglang_hisa.indexer import Output, Queries, select, token_logits
from sglang_hisa.kernels.tuning import Tuning
from sglang_hisa.launch.bench.cases import Asked, Cache, check_rows, make_queries
from sglang_hisa.launch.bench.record import KernelRow
from sglang_hisa.launch.bench.timing import capture, interleave
from sglang_hisa.patches.stock import StockDecode, serverless_kernels
from sglang_hisa.plan import Rows, Setup, make_decode_plan, refine_kernel

TOPK = 2048
LAYERS = 61
"""Of DeepSeek-V3.2. Launching a graph costs some 4 us, which they share."""


def layers_for(batch: int, context: int, pages: int) -> int:
    """Layers in one timed graph: those of the model, or as many as the cache has room for."""
    return max(1, min(LAYERS, pages // (batch * -(-context // PAGE))))


def floors(rule: Rule, batch: int, context: int, bandwidth: float) -> float:
    """Least time of a layer in us: summaries of all blocks and keys of the candidates, read once."""
    earlier = (context - 1) // rule.block
    kept = min(rule.count(context), earlier + 1)
    coarse = 0 if kept > earlier else earlier * (rule.block // PAGE) * 132
    return batch * (coarse + kept * rule.block * 132) / bandwidth * 1e6


class Step:
    """A decode step of ``layers`` layers, whose stages can be run one by one.

    Each layer's pages lie in one region, as in its own buffer, in random order. Lengths are ragged, as in a
    server: of 64 consecutive ones one completes a page, so one row in 64 seals. ``refine`` "auto" is the
    kernel that a server takes.
    """

    def __init__(
        self, cache: Cache, context: int, batch: int, heads: int, config: Config, refine: str
    ) -> None:
        self.config, self.layer = config, cache.layer
        self.kernel = refine_kernel(refine, torch.device("cuda"), heads, batch)
        self.setup = Setup(config, serverless_kernels(TOPK), "triton")
        self.rule = make_rule(config, "decode", TOPK, 0, 0)
        self.pages = -(-context // PAGE)
        self.layers = layers_for(batch, context, cache.pages)
        region = batch * self.pages
        order = [
            torch.randperm(region, device="cuda", dtype=torch.int32) + i * region for i in range(self.layers)
        ]
        self.tables = torch.stack(order).view(self.layers, batch, self.pages)
        self.ragged = [context - 1 - row * 37 % PAGE for row in range(batch)]
        self.lengths = torch.tensor(self.ragged, dtype=torch.int32, device="cuda")
        self.q, self.weights = make_queries(batch, heads)
        self.queries = Queries(self.q, self.weights, self.layer)
        bound = self.pages * PAGE
        self.plans = []
        for table in self.tables:
            rows = Rows(
                lengths=self.lengths,
                table=table,
                table_rows=None,
                max_length=bound,
                blocks=self.rule.blocks,
                share=self.rule.share,
                width=self.rule.width(bound),
            )
            self.plans.append(make_decode_plan(rows, self.setup, self.kernel, seals=True))
        self.chunk = self.plans[0].chunks[0]
        made, columns, width = torch.empty, self.plans[0].score_blocks, self.plans[0].rows.width
        self.scores = [made((batch, columns), dtype=torch.float32, device="cuda") for _ in self.tables]
        self.physical = [made((batch, width), dtype=torch.int32, device="cuda") for _ in self.tables]

    @property
    def pruned(self) -> bool:
        """Whether a row exceeds its budget. A server leaves a step that would not be faster pruned
        (:meth:`~sglang_hisa.budget.Rule.pays`) to stock DSA's graph, too."""
        return not self.rule.fits(max(self.ragged))

    def select(self, i: int) -> torch.Tensor:
        """The whole of a layer."""
        return select(self.queries, self.plans[i], self.setup, Output(physical=True))

    def coarse(self, i: int, tuning: Tuning | None = None) -> None:
        kernels.coarse_scores(
            self.q,
            self.weights,
            self.layer.keys,
            self.layer.scales,
            table=self.tables[i],
            table_rows=None,
            lengths=self.lengths,
            picks=self.chunk.picks,
            pages_per_block=self.config.pages_per_block,
            out=self.scores[i],
            backend="triton",
            seal_from=self.layer.index_k,
            overlap=True,
            tuning=tuning,
        )

    def pick(self, i: int, tuning: Tuning | None = None) -> None:
        kernels.pick_pages(
            self.scores[i],
            lengths=self.lengths,
            picks=self.chunk.picks,
            table=self.tables[i],
            table_rows=None,
            pages_per_block=self.config.pages_per_block,
            sink_blocks=sink_blocks(self.config, 0),
            local_tokens=self.config.local_tokens,
            physical=self.physical[i],
            logical=None,
            backend="triton",
            overlap=True,
            early=True,
            tuning=tuning,
        )

    def refine(self, i: int, tuning: Tuning | None = None) -> torch.Tensor:
        return token_logits(
            self.queries, self.plans[0], self.chunk, self.setup, self.physical[i], tuning=tuning
        )

    def every(self, work: Callable[[int], object]) -> Callable[[], list[object]]:
        """``work`` of all layers, which is what is captured."""
        return lambda: [work(i) for i in range(self.layers)]


def run_case(
    cache: Cache,
    context: int,
    batch: int,
    heads: int,
    config: Config,
    refine: str,
    repeats: int,
    bandwidth: float,
) -> list[KernelRow]:
    """Rows of one cell: total and each stage. Raises ``AssertionError`` if HISA chose wrongly."""
    step = Step(cache, context, batch, heads, config, refine)
    rule, layer, layers, tables = step.rule, step.layer, step.layers, step.tables
    q, weights, chunk, physical = step.q, step.weights, step.chunk, step.physical
    stock = StockDecode(step.lengths, TOPK)

    # Within the budget the server replays its stock graph, which seals once, after its last layer.
    sealed = [(layer.index_k, layer.keys, layer.scales)] * layers
    offsets = kernels.layer_offsets(sealed)

    def hisa(i: int) -> torch.Tensor:
        if not step.pruned:
            if i == layers - 1:
                kernels.seal_rows(sealed, offsets, tables[i], step.lengths, "triton")
            return stock(q, weights, layer.index_k, tables[i])
        return step.select(i)

    picks = chunk.picks.tolist() if step.pruned else [(n - 1) // rule.block for n in step.ragged]
    picked = sorted({0, batch // 2, batch - 1})
    check_rows(
        hisa(0),
        step.queries,
        tables[0],
        Asked(
            table_rows=list(range(batch)),
            lengths=step.ragged,
            picks=picks,
            block=rule.block,
            topk=TOPK,
        ),
        rows=picked,
    )

    for i in range(layers):
        step.coarse(i)
        step.pick(i)
    logits = step.refine(0)
    stock_logits = stock.logits(q, weights, layer.index_k, tables[0])
    slots = torch.randint(0, tables[0].numel() * PAGE, (batch,), device="cuda", dtype=torch.int64)
    each: dict[str, tuple[Callable[[int], object] | None, Callable[[int], object]]] = {
        "total": (lambda i: stock(q, weights, layer.index_k, tables[i]), hisa),
        "seal": (
            None,
            lambda i: kernels.seal_tokens(sealed[:1], None, slots, "triton"),
        ),
        "coarse": (None, step.coarse),
        "pick": (None, step.pick),
        "refine": (lambda i: stock.logits(q, weights, layer.index_k, tables[i]), step.refine),
        "topk": (
            lambda i: stock.topk_slots(stock_logits, tables[i]),
            lambda i: step.setup.stock.topk_slots(logits, chunk.candidates, physical[i], chunk.topk_plan),
        ),
    }
    if not step.pruned:
        each = {"total": each["total"]}
    arms, graphs = {}, []
    for stage, pair in each.items():
        for arm, work in zip(("stock", "hisa"), pair):
            if work is not None:
                graphs.append(capture(step.every(work)))
                arms[f"{stage}:{arm}"] = graphs[-1].replay
    times = interleave(arms, repeats, layers)
    rows_out = []
    for stage in each:
        ours, theirs = times[f"{stage}:hisa"], times.get(f"{stage}:stock")
        rows_out.append(
            KernelRow(
                phase="decode",
                context=context,
                batch=batch,
                heads=heads,
                budget=rule.count(context) * rule.block,
                block=rule.block,
                preset=config.preset,
                refine=step.kernel,
                stage=stage,
                layers=layers,
                stock_us=theirs and round(theirs[0], 2),
                stock_p20_us=theirs and round(theirs[1], 2),
                stock_p80_us=theirs and round(theirs[2], 2),
                hisa_us=round(ours[0], 2),
                hisa_p20_us=round(ours[1], 2),
                hisa_p80_us=round(ours[2], 2),
                speedup=theirs and round(theirs[0] / ours[0], 3),
                floor_us=round(floors(rule, batch, context, bandwidth), 2) if stage == "total" else None,
            )
        )
    return rows_out
