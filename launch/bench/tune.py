"""Which launch settings are fastest on this GPU, kernel by kernel, from cold L2.

example:
  hisa bench tune --apply               measure all, and let servers use it
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sglang_hisa import PAGE
from sglang_hisa.config import from_mapping
from sglang_hisa.kernels.tuning import DEFAULT, Tuning, for_device, save
from sglang_hisa.launch.bench.record import TuneRecord, TuneRow
from sglang_hisa.launch.common import files
from sglang_hisa.launch.common.help import Help
from sglang_hisa.launch.common.text import K
from sglang_hisa.launch.common.typed import as_json

FIELDS: dict[str, tuple[str, ...]] = {
    "coarse": ("coarse_pages", "coarse_warps", "coarse_programs"),
    "rank": ("rank_tile", "rank_chunk", "rank_warps"),
    "pick": ("pick_warps",),
    "pick_many": ("pick_warps_many",),
    "refine": ("refine_programs", "refine_pages", "refine_stages"),
    "refine_rows": ("refine_rows",),
}
MOST = 128
TRIED: dict[str, tuple[tuple[int, ...], ...]] = {
    "coarse": (
        (32, 4, 2048),
        (64, 4, 512),
        (64, 4, 1024),
        (64, 4, 4096),
        (64, 8, 1024),
        (128, 4, 1024),
        (128, 8, 512),
        (128, 8, 1024),
        (128, 8, 4096),
    ),
    "rank": (
        (4, 512, 4),
        (4, 1024, 4),
        (4, 2048, 4),
        (4, 2048, 8),
        (8, 256, 4),
        (8, 512, 4),
        (8, 1024, 4),
        (8, 1024, 8),
        (8, 2048, 8),
        (16, 256, 4),
        (16, 512, 4),
    ),
    "pick": ((4,), (8,), (16,), (32,)),
    "pick_many": ((2,), (4,), (8,)),
    "refine": (
        (256, 32, 3),
        (512, 16, 3),
        (512, 32, 2),
        (512, 32, 3),
        (512, 32, 5),
        (512, 32, 7),
        (512, 64, 3),
        (1024, 32, 3),
        (1024, 32, 5),
        (2048, 32, 3),
    ),
    "refine_rows": ((0,), (MOST,)),
}
"""Values of a kernel's fields that are tried together; of ``refine_rows``, DeepGEMM and our own kernel in
whole layers (with the settings used so far, not those found meanwhile: a second run after ``--apply``)."""
DECODE = tuple(itertools.product((1, 16, 64), (64 * K, 128 * K, 256 * K)))
PREFILL = ((8192, 64 * K), (8192, 128 * K))
"""Rows and their context."""
LAYER = tuple((rows, 128 * K) for rows in (1, 4, 16, 32, 64, MOST))
"""The same of whole layers."""


def _product(rows: Sequence[TuneRow]) -> float:
    return sum(math.log(row.us) for row in rows)


def best(rows: Sequence[TuneRow], kernel: str) -> dict[str, int]:
    """The values of a kernel's fields with the least product of times over all shapes.

    Ranking by counting is meant for few rows: where a search is faster, its times stand for it, and
    ``rank_pairs`` says up to how many pairs of blocks (rows x blocks x blocks) it is not. ``refine_rows`` is
    the most rows up to which a layer with our refine kernel is the faster one at every size tried.
    """
    mine = [row for row in rows if row.kernel == kernel]
    if kernel == "refine_rows":
        return {"refine_rows": _rows_of_ours(mine)}
    tried = sorted({tuple(row.settings.items()) for row in mine})
    if kernel != "rank" or not any(row.kernel == "pick" for row in rows):
        return dict(min(tried, key=lambda one: _product([r for r in mine if r.settings == dict(one)])))
    search = best(rows, "pick")
    other = [row for row in rows if row.kernel == "pick" and row.settings == search]
    pairs = sorted({_pairs(row) for row in other})

    def cost(choice: tuple[tuple[tuple[str, int], ...], int]) -> float:
        one, limit = choice
        counted = [r for r in mine if r.settings == dict(one) and _pairs(r) <= limit]
        return _product(counted + [row for row in other if _pairs(row) > limit])

    one, limit = min(itertools.product(tried, (0, *pairs)), key=cost)
    return {**dict(one), "rank_pairs": limit}


def _rows_of_ours(layers: Sequence[TuneRow]) -> int:
    """The largest size up to which all sizes are faster with our kernel; 0 for none."""
    found = 0
    for size in sorted({row.rows for row in layers}):
        same = [row for row in layers if row.rows == size]
        ours, theirs = ([r for r in same if bool(r.settings["refine_rows"]) == own] for own in (True, False))
        if _product(ours) >= _product(theirs):
            break
        found = size
    return found


def _pairs(row: TuneRow) -> int:
    return int(row.rows * (row.context // PAGE) ** 2)


def tuning_of(rows: Sequence[TuneRow], used: Tuning = DEFAULT) -> Tuning:
    """The fastest settings that the rows show; fields of kernels without rows are those used so far."""
    found = {}
    for kernel in dict.fromkeys(row.kernel for row in rows):
        found.update(best(rows, kernel))
    return replace(used, **found)


def table(rows: Sequence[TuneRow], now: Tuning = DEFAULT) -> str:
    """The best values of each kernel and what they gain over those used so far, shape by shape.

    Of ``refine_rows``: a layer with DeepGEMM's kernel and with ours.
    """
    lines = []
    for kernel in dict.fromkeys(row.kernel for row in rows):
        chosen = best(rows, kernel)
        used = {name: getattr(now, name) for name in FIELDS[kernel]}
        lines.append(f"{kernel}: {' '.join(f'{name}={value}' for name, value in chosen.items())}")
        if kernel == "refine_rows":
            used, chosen = {"refine_rows": 0}, {"refine_rows": MOST}
        mine = [row for row in rows if row.kernel == kernel]
        for old, new in itertools.product(mine, mine):
            same = (old.rows, old.context) == (new.rows, new.context)
            if same and old.settings == used and new.settings.items() <= chosen.items():
                lines.append(f"  {old.shape} {old.us:8.2f} -> {new.us:8.2f} us")
    return "\n".join(lines)


def _prefill(cache: Any, rows: int, context: int) -> dict[str, Callable[[Tuning], object]]:
    """The last rows of a prompt: their pick, and the token scores of 128 pages each."""
    import torch

    from sglang_hisa import kernels
    from sglang_hisa.launch.bench.cases import make_queries

    blocks, keep = context // PAGE - 1, 127
    scores = torch.randn((rows, blocks), device="cuda")
    lengths = torch.arange(context - rows + 1, context + 1, dtype=torch.int32, device="cuda")
    picks = torch.full_like(lengths, keep)
    order = torch.randperm(context // PAGE, device="cuda", dtype=torch.int32)[None]
    which = torch.zeros_like(lengths)
    physical = torch.empty((rows, keep + 1), dtype=torch.int32, device="cuda")

    def pick(tuning: Tuning | None = None) -> None:
        kernels.pick_pages(
            scores,
            lengths=lengths,
            picks=picks,
            table=order,
            table_rows=which,
            pages_per_block=1,
            sink_blocks=1,
            local_tokens=PAGE,
            physical=physical,
            logical=None,
            backend="triton",
            tuning=tuning,
        )

    pick()
    q, weights = make_queries(rows, 64)
    candidates = torch.full_like(lengths, (keep + 1) * PAGE)
    logits = torch.empty((rows, (keep + 1) * PAGE), device="cuda")

    def refine(tuning: Tuning) -> None:
        kernels.refine_logits(
            q,
            weights,
            cache.layer.index_k,
            table=physical,
            lengths=candidates,
            out=logits,
            backend="triton",
            tuning=tuning,
        )

    return {"pick_many": pick, "refine": refine}


def measure(kernels: Sequence[str], repeats: int, cache_gb: float, tell: Callable[[TuneRow], None]) -> None:
    """Time every variant of every kernel; ``tell`` gets each row as soon as it is measured."""
    import torch

    from sglang_hisa.kernels.layout import ROW_BYTES
    from sglang_hisa.launch.bench import cases
    from sglang_hisa.launch.bench.decode import Step
    from sglang_hisa.launch.bench.timing import capture, interleave

    def time(kernel: str, rows: int, context: int, layers: int, run: Callable[[Tuning], Any]) -> None:
        graphs = {}
        for values in TRIED[kernel]:
            tuning = replace(used, **dict(zip(FIELDS[kernel], values)))
            tuning = replace(tuning, rank_pairs=1 << 62 if kernel == "rank" else 0)
            graphs[values] = capture(functools.partial(run, tuning))
        times = interleave({str(values): graph.replay for values, graph in graphs.items()}, repeats, layers)
        for values, (median, low, high) in zip(graphs, times.values()):
            tell(
                TuneRow(
                    kernel=kernel,
                    rows=rows,
                    context=context,
                    settings=dict(zip(FIELDS[kernel], values)),
                    us=round(median, 2),
                    p20_us=round(low, 2),
                    p80_us=round(high, 2),
                )
            )

    used = for_device(torch.device("cuda"))
    cache = cases.make_cache(int(cache_gb * (1 << 30)) // ROW_BYTES)
    config = from_mapping({"preset": "paper", "block": 64})
    for rows, context in DECODE:
        step = Step(cache, context, rows, 64, config, "triton")
        for i in range(step.layers):  # each stage reads what the one before it wrote
            step.coarse(i)
            step.pick(i)
        stages = {"coarse": step.coarse, "rank": step.pick, "pick": step.pick, "refine": step.refine}
        for kernel in (k for k in kernels if k in stages):

            def all_layers(tuning: Tuning, step: Step = step, stage: Any = stages[kernel]) -> object:
                return step.every(functools.partial(stage, tuning=tuning))()

            time(kernel, rows, context, step.layers, all_layers)
    for rows, context in LAYER if "refine_rows" in kernels else ():
        steps = [Step(cache, context, rows, 64, config, refine) for refine in ("deepgemm", "triton")]

        def layer(tuning: Tuning, steps: Sequence[Step] = steps) -> object:
            step = steps[tuning.refine_rows > 0]
            return step.every(step.select)()

        time("refine_rows", rows, context, steps[0].layers, layer)
    for rows, context in PREFILL:
        for kernel, run in _prefill(cache, rows, context).items():
            if kernel in kernels:
                time(kernel, rows, context, 1, run)


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, write the record."""
    parser = argparse.ArgumentParser(prog="hisa bench tune", description=__doc__, formatter_class=Help)
    parser.add_argument(
        "--kernels",
        nargs="+",
        choices=list(FIELDS),
        default=list(FIELDS),
        metavar="KERNEL",
        help=f"of {', '.join(FIELDS)} (default: all)",
    )
    parser.add_argument("--repeats", type=int, default=9, help="timed runs of each variant")
    parser.add_argument("--cache-gb", type=float, default=36, help="GPU memory for the index-K pages")
    parser.add_argument("--out", type=Path, help="write the record (JSON) here")
    parser.add_argument(
        "--apply", action="store_true", help="keep what was found for this GPU: servers use it from then on"
    )
    args = parser.parse_args(argv)
    import torch

    from sglang_hisa.launch.common.provenance import Provenance, provenance

    rows: list[TuneRow] = []

    def tell(row: TuneRow) -> None:
        rows.append(row)
        values = " ".join(f"{name}={value}" for name, value in row.settings.items())
        print(f"{row.kernel:11} {row.shape} {row.us:8.2f} us  {values}", flush=True)

    measure(args.kernels, args.repeats, args.cache_gb, tell)
    used = for_device(torch.device("cuda"))
    found = tuning_of(rows, used)
    print(f"{table(rows, used)}\n{asdict(found)}")
    if args.out:
        record = TuneRecord(
            commands=(shlex.join(sys.argv),),
            provenance=Provenance(**provenance()),
            settings=asdict(found),
            rows=tuple(rows),
        )
        files.save(as_json(record), args.out.parent, args.out.name)
        print(f"wrote {args.out}")
    if args.apply:
        print(f"wrote {save(torch.cuda.get_device_name(), found)}: used from now on")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
