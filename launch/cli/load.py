"""``hisa load``: how much load does my running server take?"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_hisa.config import ENV_KEY, environment
from sglang_hisa.launch.cli import preflight, records, usage
from sglang_hisa.launch.common import auth
from sglang_hisa.launch.common.help import Help
from sglang_hisa.launch.common.server import cpu_env

_ABOUT = """\
Puts increasing load on ONE running server of this machine, stock SGLang or HISA: a number of concurrent
requests (--concurrency) or of arrivals per second (--rate), from SGLang's own load generator. With --slo it
counts goodput (requests that meet every limit) and names the knee (the highest measured load at which at
least 90 % of the requests do). It also reports failed requests and retractions.

A run always ends: each load has a fixed number of requests (--requests, or what arrives in --seconds), and
one that takes longer than --limit seconds is cut off, and the higher loads are left out. Ctrl-C keeps the
finished loads and marks the report as partial (exit code 130). The exit code is 1 if there is no server or it
dies, and 2 if a cache already knew the prompts, which are new in each run.
"""

_EXAMPLES = """\
examples:
  hisa serve MODEL --tp 8 --enable-metrics      in one terminal; in another,
                                                with URL=http://127.0.0.1:30000:
  hisa load $URL --concurrency 1,2,4,8 --slo ttft=2,itl=0.05
  hisa load $URL --rate 0.5,1,2,4 --input-tokens 32k --seconds 120
  hisa load $URL --workload shared-prefix --prefix-tokens 24k --input-tokens 32k
  hisa load $URL --prompts mine.jsonl --output-tokens 256 --concurrency 1,8,32
  hisa load $URL --workload multi-turn --turns 4 --concurrency 1,4,16
  hisa load --compare stock/ balanced/ --slo itl=20ms
                                                how many users can each serve
                                                at 20 ms per token?
  hisa load --from hisa-load --slo ttft=1       apply another limit to a kept
                                                run; needs no server

limits of --slo, in seconds:
  ttft   time to the first token
  tpot   mean time between the tokens of a request
  itl    time between two tokens, for 99 of 100 gaps of a request
  e2e    time to the last token

writes to --out: report.html (plots and tables in one file), report.md (for a pull request), report.json
(everything).
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "load",
        help="put increasing load on a running server: latency, goodput, the knee",
        description=_ABOUT,
        epilog=_EXAMPLES,
        usage="hisa load [options] URL",
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument(
        "url", nargs="?", metavar="URL", help="server on this machine, http://127.0.0.1:30000"
    )
    sweep = parser.add_mutually_exclusive_group()
    sweep.add_argument(
        "--concurrency", default="1,2,4,8", metavar="N,N", help="concurrent requests (default: 1,2,4,8)"
    )
    sweep.add_argument("--rate", metavar="R,R", help="requests that arrive per second, at random moments")
    parser.add_argument("--workload", default="random", help="random, shared-prefix or multi-turn")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='your own prompts instead: JSON lines such as {"prompt": "…", "output_tokens": N}, or SGLang\'s '
        "conversations",
    )
    parser.add_argument("--input-tokens", default="8k", metavar="N", help="length of a prompt (8k: 8192)")
    parser.add_argument("--output-tokens", default="128", metavar="N", help="length of an answer")
    parser.add_argument(
        "--prefix-tokens", metavar="N", help="tokens of a prompt that are shared (default: three quarters)"
    )
    parser.add_argument(
        "--groups", type=int, default=4, metavar="N", help="number of different shared prefixes"
    )
    parser.add_argument(
        "--turns", type=int, default=3, metavar="N", help="turns of a multi-turn conversation"
    )
    parser.add_argument(
        "--requests",
        type=int,
        metavar="N",
        help="requests (or conversations) of each load (default: 4 for each concurrent one)",
    )
    parser.add_argument(
        "--seconds", type=float, default=60, metavar="S", help="seconds of arrivals for each load of --rate"
    )
    parser.add_argument(
        "--limit", type=float, default=900, metavar="S", help="seconds after which a load is cut off"
    )
    parser.add_argument("--slo", metavar="NAME=S,…", help="limits of a good request, such as ttft=2,itl=0.05")
    parser.add_argument("--seed", type=int, default=1, help="seed of the prompts and arrivals")
    parser.add_argument("--cpu", action="store_true", help="for a server started with `hisa serve --cpu`")
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"the server's API key (default: the environment's {ENV_KEY}, or none)",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="the model's tokenizer, if the server's own path is not readable here",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="RECORD",
        help="only compare kept runs with the first: how many users each serves within --slo",
    )
    records.add_options(parser, "hisa-load")
    parser.set_defaults(run=run, usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Run or render; see the help for the exit codes."""
    from sglang_hisa.launch.load import plan

    try:
        slo = plan.parse_slo(args.slo) if args.slo is not None else None
        if args.compare:
            return _compare(args, slo)
        if args.source is not None:
            return _show(args, slo)
        if args.url is None:
            raise ValueError("URL is missing (or --from RECORD, to render a kept record)")
        url, work, sweep = plan.local_url(args.url), _workload(args), _sweep(args)
    except (ValueError, OSError) as error:
        args.usage_error(str(error))
    _refuse_idle(args)
    auth.use(args.api_key)
    return _measure(args, url, work, sweep, slo or {})


def _compare(args: argparse.Namespace, slo: dict[str, float] | None) -> int:
    """Kept runs side by side; written where ``--out`` says."""
    from sglang_hisa.launch.load import compare, compare_report, report

    if len(args.compare) < 2:
        raise ValueError("--compare needs at least two runs; the others are compared with the first")
    kept = [report.load(source) for source in args.compare]
    kept = [record if slo is None else replace(record, slo=slo) for record in kept]
    if len({str(record.slo) for record in kept}) > 1:
        raise ValueError("the runs have different limits: give --slo for all of them")
    if found := compare.problems(kept):
        raise ValueError("these runs cannot be compared: " + "; ".join(found))
    compare_report.print_report(kept)
    if args.out is not None:
        print(compare_report.write(kept, args.out)[0])
    return 0


def _show(args: argparse.Namespace, slo: dict[str, float] | None) -> int:
    """Render a kept record; under other limits into another folder only, what was kept stays as it is."""
    from sglang_hisa.launch.common import files
    from sglang_hisa.launch.load import point_tables, report

    if slo is None:
        files.place(args.source, args.out)
    record = records.open_kept(args, report.load)
    other = slo is not None and slo != record.slo
    record = record if slo is None else replace(record, slo=slo)
    if other and args.out is None:
        point_tables.print_report(record)
        print("hisa load: nothing was written; give --out DIR to keep this report", file=sys.stderr)
        return 0
    folder = records.report_folder(args, rewrites=not other)
    report.write(record, folder)
    point_tables.print_report(record)
    return 0


def _refuse_idle(args: argparse.Namespace) -> None:
    if args.workload != "multi-turn":
        usage.refuse_idle(args, ["--turns"], f"with --workload {args.workload}; use --workload multi-turn")
    if args.workload == "random":
        shared = "with --workload random; use --workload shared-prefix"
        usage.refuse_idle(args, ["--prefix-tokens", "--groups"], shared)
    if args.rate is None:
        usage.refuse_idle(args, ["--seconds"], "without --rate")
    elif args.requests is not None:
        usage.refuse_idle(args, ["--seconds"], "with --requests, which sets the number")


def _workload(args: argparse.Namespace) -> Any:
    from sglang_hisa.launch.ab.plan import parse_tokens
    from sglang_hisa.launch.load import prompts
    from sglang_hisa.launch.load.plan import Workload

    size, out = parse_tokens(args.input_tokens), parse_tokens(args.output_tokens)
    if args.prompts is not None:
        if args.workload != "random":
            raise ValueError(f"--prompts is itself a workload: drop --workload {args.workload}")
        return Workload("file", 0, out, prompts=prompts.read(args.prompts))
    if args.workload == "random":
        return Workload("random", size, out)
    prefix = parse_tokens(args.prefix_tokens) if args.prefix_tokens else size * 3 // 4
    turns = args.turns if args.workload == "multi-turn" else 1
    return Workload(args.workload, size, out, args.groups, prefix, turns)


def _sweep(args: argparse.Namespace) -> Any:
    from sglang_hisa.launch.load.plan import Sweep, parse_loads

    kind = "concurrency" if args.rate is None else "rate"
    loads = parse_loads(args.rate if kind == "rate" else args.concurrency, kind)
    return Sweep(kind, loads, args.requests, args.seconds, args.limit, args.seed)


def _measure(args: argparse.Namespace, url: str, work: Any, sweep: Any, slo: dict[str, float]) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from sglang_hisa.launch.common import limits
    from sglang_hisa.launch.load import plan, point_tables, report
    from sglang_hisa.launch.load import sweep as measuring
    from sglang_hisa.launch.load.points import Kept

    records.refuse_kept(args)
    try:
        server = measuring.server_facts(url, args.tokenizer)
    except measuring.Unreachable as error:
        print(f"hisa load: {error}", file=sys.stderr)
        return 1
    known = limits.ask(url)
    refusal, told = plan.fits(known, work, sweep)
    for line in (*told, *([refusal] if refusal else [])):
        print(f"hisa load: {line}", file=sys.stderr)
    if refusal:
        return 2
    preflight.check_reports()
    if not args.cpu:
        preflight.check_generator()
    args.out = records.new_folder(args, "hisa-load")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting the load generator", total=len(sweep.loads))

        def tell(kept: Kept) -> None:
            progress.console.print(
                f"hisa load: {measuring.line(kept, sweep.kind)}", highlight=False, markup=False
            )
            left = sweep.loads[sweep.loads.index(kept.load) + 1 :]
            progress.update(task, advance=1, description=f"{sweep.kind} {left[0]:g}" if left else "report")

        runner = measuring.Runner(
            url=url,
            server=server,
            work=work,
            sweep=sweep,
            slo=slo,
            env=measuring.child_env(cpu_env(environment(), None) if args.cpu else environment()),
            folder=args.out,
            save=lambda record: report.save(record, args.out),
            tell=tell,
            limits=known,
        )
        code = runner.run()
    report.write(runner.record, args.out)
    point_tables.print_report(runner.record)
    if code in (1, 2):
        parts = (f"hisa load: {runner.record.stopped_by}", runner.record.log_tail)
        print("\n".join(part for part in parts if part), file=sys.stderr)
    print(f"{args.out / 'report.html'}")
    return code
