"""What a step costs beside its layers' choices, on one GPU: its plan and counts, an extend step's seals.

  python -m sglang_hisa.launch.bench.plan --out FILE

Each is captured in a CUDA graph, several of them one after the other, as PyTorch would launch it and as
HISA's kernels do; the graphs take turns. A row that fails is recorded with its error, and the others go on.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sglang_hisa import PAGE
from sglang_hisa.budget import make_rule
from sglang_hisa.config import parse
from sglang_hisa.counts import RowCounts
from sglang_hisa.kernels.layout import ROW_BYTES
from sglang_hisa.launch.bench.plan_record import PlanRecord, PlanRow
from sglang_hisa.launch.bench.timing import Work, host_us, interleave
from sglang_hisa.launch.common.files import save
from sglang_hisa.launch.common.help import tool
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.common.typed import as_json
from sglang_hisa.plan import Plan, Rows, Setup, make_decode_plan
from sglang_hisa.stock_kernels import StockKernels
from sglang_hisa.summaries import PageSummaries

K = 1024
TOPK = 2048
COPIES = 20
"""Of a plan in one graph: launching a graph costs some 4 us, which they share."""


@dataclass(frozen=True)
class Case:
    """Ways to do the same work."""

    work: str
    rows: int
    refine: str
    layers: int
    arms: Mapping[str, Work]


def decode(rows: int, bound: int, preset: str, stock: StockKernels, device: torch.device) -> list[Case]:
    """Plan and counts of a decode step of ragged rows of up to ``bound`` tokens, one of them padding."""
    config = parse(preset)
    rule = make_rule(config, "decode", TOPK, 0, 0)
    ragged = [1 if row == 5 else bound - 1 - row * 4099 % (bound // 2) for row in range(rows)]
    step = Rows(
        lengths=torch.tensor(ragged, dtype=torch.int32, device=device),
        table=torch.zeros((rows, bound // PAGE), dtype=torch.int32, device=device),
        table_rows=None,
        max_length=bound,
        blocks=rule.blocks,
        share=rule.share,
        width=rule.width(bound),
    )

    def whole(backend: str, refine: str) -> Work:
        counts, setup = RowCounts(), Setup(config, stock, backend)
        counts.allocate(device, backend)

        def work() -> tuple[Plan, RowCounts]:
            plan = make_decode_plan(step, setup, refine, seals=True)
            counts.add("decode", step.lengths, plan.of_rows("candidates"), padding=1)
            return plan, counts

        return work

    found = []
    for refine in ("triton", "deepgemm"):
        candidates = make_decode_plan(step, Setup(config, stock, "torch"), refine, seals=True).of_rows(
            "candidates"
        )

        def planners(candidates: torch.Tensor = candidates, refine: str = refine) -> None:
            if refine == "deepgemm":
                stock.schedule(candidates[:, None])
            stock.topk_plan(candidates)

        arms = {backend: whole(backend, refine) for backend in ("torch", "triton")}
        found.append(Case("plan", rows, refine, 1, arms))
        found.append(Case("planners", rows, refine, 1, {"stock": planners}))
    return found


def pool(tokens: int, layers: int, device: torch.device) -> PageSummaries:
    """Index keys of zeros and their summaries, with room for half a page more than ``tokens``."""
    pages = tokens // PAGE + 1
    buffers = [torch.zeros((pages, ROW_BYTES), dtype=torch.uint8, device=device) for _ in range(layers)]
    return PageSummaries(buffers, 0, "triton" if device.type == "cuda" else "torch")


def seals(tokens: int, summaries: PageSummaries) -> Case:
    """What an extend step of ``tokens`` tokens seals: after each layer's store, or once after the last."""
    slots = torch.arange(tokens, device=summaries.layers[0].scales.device) + PAGE // 2
    layers = len(summaries.layers)

    def each() -> None:
        for layer in range(layers):
            summaries.seal_tokens(layer, slots)

    arms: dict[str, Work] = {"each": each, "once": lambda: summaries.seal_tokens(None, slots)}
    return Case("seal", tokens, "", layers, arms)


def nodes(graph: torch.cuda.CUDAGraph) -> int | None:
    """How many nodes a graph has that was captured with ``keep_graph``; None if CUDA does not tell."""
    count = ctypes.c_size_t()
    asked = ctypes.CDLL("libcuda.so.1").cuGraphGetNodes
    failed = asked(ctypes.c_void_p(graph.raw_cuda_graph()), None, ctypes.byref(count))
    return None if failed else count.value


def captured(work: Work, copies: int) -> torch.cuda.CUDAGraph:
    """``copies`` of ``work`` as a graph that can be asked for its nodes."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        for _ in range(copies):
            work()
    graph.instantiate()
    return graph


def gpu_case(case: Case, rounds: int) -> Iterator[PlanRow]:
    """Rows of a case, its arms timed in turns."""
    copies = COPIES if case.work != "seal" else 1
    graphs = {name: captured(work, copies) for name, work in case.arms.items()}
    times = interleave({name: graph.replay for name, graph in graphs.items()}, rounds, copies)
    for name, work in case.arms.items():
        count = nodes(graphs[name])
        median, p20, p80 = times[name]
        yield row_of(
            case,
            name,
            launches=None if count is None else count / copies,
            us=round(median, 2),
            p20_us=round(p20, 2),
            p80_us=round(p80, 2),
            host_us=round(host_us(work, rounds), 1),
        )


def row_of(
    case: Case,
    arm: str,
    *,
    launches: float | None = None,
    us: float | None = None,
    p20_us: float | None = None,
    p80_us: float | None = None,
    host_us: float | None = None,
    error: str = "",
) -> PlanRow:
    return PlanRow(
        work=case.work,
        arm=arm,
        rows=case.rows,
        refine=case.refine,
        layers=case.layers,
        launches=launches,
        us=us,
        p20_us=p20_us,
        p80_us=p80_us,
        host_us=host_us,
        error=error,
    )


def line(row: PlanRow) -> str:
    """A row for a person."""
    name = f"{row.work:8} {row.rows:5} rows {row.layers:2} layers {row.refine:8} {row.arm:6}"
    if row.error:
        return f"{name}: {row.error}"
    spread = f"{row.us} us [{row.p20_us}, {row.p80_us}]"
    return f"{name}: {row.launches} launches, {spread}, Python {row.host_us} us"


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = tool("bench.plan", "--out FILE", __doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="record (.json)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 64], help="decode rows")
    parser.add_argument("--bound", type=int, default=160 * K, help="tokens that a graph's rows may have")
    parser.add_argument("--preset", default="balanced", help="whose decode budget")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8 * K], help="tokens of an extend step")
    parser.add_argument("--layers", type=int, default=61, help="layers of an extend step")
    parser.add_argument("--rounds", type=int, default=50, help="timed runs of each arm")
    return parser.parse_args(argv)


def measure(
    args: argparse.Namespace,
    stock: StockKernels,
    device: torch.device,
    rows_of: Callable[[Case, int], Iterator[PlanRow]],
) -> list[PlanRow]:
    """Rows of all cases, printed one by one."""
    found: list[PlanRow] = []
    cases = [case for rows in args.batches for case in decode(rows, args.bound, args.preset, stock, device)]
    cases += [seals(tokens, pool(tokens, args.layers, device)) for tokens in args.tokens]
    for case in cases:
        try:
            rows = list(rows_of(case, args.rounds))
        except Exception as error:
            traceback.print_exc()
            rows = [row_of(case, "", error=f"{type(error).__name__}: {error}"[:2000])]
        print(*map(line, rows), sep="\n", flush=True)
        found += rows
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure all cases and write the record."""
    args = parsed(argv)
    from sglang_hisa.patches.stock import serverless_kernels

    began = time.monotonic()
    rows = measure(args, serverless_kernels(TOPK), torch.device("cuda"), gpu_case)
    record = PlanRecord(
        kind="hisa-plan",
        provenance=Provenance(**provenance()),
        seconds=round(time.monotonic() - began, 1),
        rows=tuple(rows),
    )
    print(save(as_json(record), args.out.parent, args.out.name))
    return 1 if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
