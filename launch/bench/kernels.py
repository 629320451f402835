"""The stock indexer against HISA on one GPU, by context and batch; no model needed.

example:
  hisa bench kernels --decode-contexts 131072 --rows --out h100.json
                                        decode rows of 128K tokens, no prefill
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from sglang_hisa.config import Config, from_mapping
from sglang_hisa.launch.bench import report
from sglang_hisa.launch.bench.record import KernelRecord, KernelRow
from sglang_hisa.launch.common.files import save
from sglang_hisa.launch.common.help import Help
from sglang_hisa.launch.common.record import load
from sglang_hisa.launch.common.text import K
from sglang_hisa.launch.common.typed import as_json

DECODE_CONTEXTS = [4 * K, 16 * K, 32 * K, 64 * K, 128 * K, 256 * K, 512 * K, 1024 * K]
BATCHES = [1, 4, 16, 64, 128]
PREFILL_CONTEXTS = [8 * K, 32 * K, 64 * K, 128 * K]


def _config(budget: str, block: int, group: int = 1, tail: int = 0, share: float = 1.0) -> Config:
    """``budget``: "8192", "16384" or "L/4" (at least 8192), in both phases; ``share``: of the heads.

    Everything that a preset chooses and a cell depends on is given, so that no cell changes with a preset.
    """
    tokens, fraction = (8192, 0.25) if budget == "L/4" else (int(budget), 0.0)
    return from_mapping(
        {
            "block": block,
            "decode_tokens": tokens,
            "decode_fraction": fraction,
            "prefill_tokens": tokens,
            "prefill_fraction": fraction,
            "prefill_heads": share,
            "prefill_group": group,
            "dense_tail_tokens": tail,
        }
    )


def _ceilings() -> tuple[float, float]:
    """Measured bytes/s of a device copy and the datasheet's dense fp8 flop/s of an H100 SXM."""
    import torch

    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    b.copy_(a)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(5):
        b.copy_(a)
    end.record()
    end.synchronize()
    return 5 * 2 * a.numel() / (begin.elapsed_time(end) / 1000), 1979e12


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(prog="hisa bench kernels", description=__doc__, formatter_class=Help)
    number: dict[str, Any] = {"type": int, "nargs": "*"}
    parser.add_argument("--decode-contexts", **number, default=DECODE_CONTEXTS, help="tokens a row sees")
    parser.add_argument("--batches", **number, default=BATCHES, help="decode rows")
    parser.add_argument("--prefill-contexts", **number, default=PREFILL_CONTEXTS, help="end of the chunk")
    parser.add_argument("--rows", **number, default=[8192], help="rows of a prefill chunk")
    parser.add_argument("--heads", **number, default=[64], help="index heads")
    parser.add_argument("--budgets", nargs="+", default=["8192"], help='candidate tokens, or "L/4"')
    parser.add_argument("--blocks", **number, default=[64], help="tokens that share a coarse score")
    parser.add_argument(
        "--groups", **number, default=[1, 2], help="prefill rows that choose together: 1 to 16"
    )
    parser.add_argument("--tails", **number, default=[0], help="last prefill rows that keep everything")
    parser.add_argument(
        "--head-shares",
        type=float,
        nargs="*",
        default=[1.0],
        help="share of the index heads that score the tokens of prefill rows",
    )
    choices = ["auto", "deepgemm", "triton"]
    parser.add_argument(
        "--refine",
        nargs="+",
        choices=choices,
        default=["auto"],
        metavar="KERNEL",
        help="kernel of the token scores: deepgemm, triton, or auto, the one that a server takes, as rows "
        "then show",
    )
    parser.add_argument("--repeats", type=int, default=20, help="timed runs of each arm")
    parser.add_argument("--cache-gb", type=float, default=40, help="GPU memory for the index-K pages")
    parser.add_argument(
        "--out",
        type=Path,
        help="write the record (JSON) here, with a .csv and a .png beside it; cells already in it are kept",
    )
    parser.add_argument("--render", type=Path, help="only write .csv and .png of this record again")
    args = parser.parse_args(argv)
    if any(share < 1 for share in args.head_shares) and any(args.tails):
        parser.error("--head-shares below 1 takes --tails 0: the last rows score with all heads")
    return args


def _line(row: KernelRow) -> str:
    stock = f"{row.stock_us:9.1f}" if row.stock_us else "        -"
    speed = f"{row.speedup:6.2f}x" if row.speedup else "      -"
    floor = f"{row.floor_us:8.1f}" if row.floor_us else "       -"
    return (
        f"{row.phase:7} {row.context // K:5}K x{row.size:<5} h{row.heads} "
        f"budget {row.budget:6} block {row.block:3} group {row.group:2} {row.tail or '':4} "
        f"{row.refine:8} {row.stage:6} stock {stock} hisa {row.hisa_us:8.1f} us {speed} floor {floor}"
    )


def _report(kept: KernelRecord, path: Path) -> None:
    written = report.write(kept, path)
    print("wrote " + ", ".join(map(str, written)))
    if path.with_suffix(".png") not in written:
        print("no plot: matplotlib is missing (pip install matplotlib)")


def main(argv: list[str] | None = None) -> int:
    """Run the grid; a cell whose check fails is reported as failed and gets no speed-up."""
    args = parse(argv)
    if args.render:
        _report(load(args.render, KernelRecord), args.render)
        return 0
    import torch

    from sglang_hisa.kernels.layout import ROW_BYTES
    from sglang_hisa.kernels.tuning import for_device
    from sglang_hisa.launch.bench import cases, decode, prefill
    from sglang_hisa.launch.common.provenance import Provenance, provenance

    torch.manual_seed(0)
    bandwidth, flops = _ceilings()
    cache = cases.make_cache(int(args.cache_gb * (1 << 30)) // ROW_BYTES)
    kept = load(args.out, KernelRecord) if args.out and args.out.is_file() else KernelRecord()
    base = KernelRecord(
        commands=(*kept.commands, shlex.join(sys.argv)),
        provenance=Provenance(**provenance()),
        settings=asdict(for_device(torch.device("cuda"))),
        ceilings={"copy_bytes_per_s": bandwidth, "fp8_flops": flops},
    )
    rows: list[KernelRow] = []
    failures: list[str] = []

    def record() -> KernelRecord:
        fresh = {row.cell for row in rows}
        merged = [row for row in kept.rows if row.cell not in fresh] + rows
        return replace(base, failures=(*kept.failures, *failures), rows=tuple(merged))

    def cell(name: str, work: Callable[[], list[KernelRow]]) -> None:
        try:
            found = work()
        except AssertionError as error:
            failures.append(f"{name}: {error}")
            print(f"FAILED {name}: {error}", flush=True)
            return
        rows.extend(found)
        for row in found:
            print(_line(row), flush=True)
        if args.out:
            save(as_json(record()), args.out.parent, args.out.name)
        torch.cuda.empty_cache()

    for heads, refine, budget, block in itertools.product(args.heads, args.refine, args.budgets, args.blocks):
        named = f"heads {heads} budget {budget} block {block} {refine}"
        for context, batch in itertools.product(args.decode_contexts, args.batches):
            if batch * (-(-context // 64)) <= cache.pages:
                config = _config(budget, block)
                step = (cache, context, batch, heads, config, refine, args.repeats, bandwidth)
                cell(f"decode {context} x {batch} {named}", partial(decode.run_case, *step))
        chunks = itertools.product(
            args.prefill_contexts, args.rows, args.groups, args.tails, args.head_shares
        )
        for context, size, group, tail, share in chunks:
            if size <= context:
                config, repeats = _config(budget, block, group, tail, share), max(5, args.repeats // 2)
                chunk = (cache, context, size, heads, config, refine, repeats, flops)
                name = f"prefill {context} x {size} group {group} tail {tail} share {share:g} {named}"
                cell(name, partial(prefill.run_case, *chunk))
    if args.out:
        _report(record(), args.out)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
