"""``hisa ab``: is HISA faster on my model, my lengths, my GPUs?"""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path

from sglang_hisa.config import environment
from sglang_hisa.launch.ab.plan import ALPHA, MIN_PAIRS
from sglang_hisa.launch.ab.stats import START
from sglang_hisa.launch.cli import live, preflight, records, usage
from sglang_hisa.launch.common import server
from sglang_hisa.launch.common.arms import parse_arms, parse_named
from sglang_hisa.launch.common.help import Help
from sglang_hisa.launch.common.receipts import Said

_ABOUT = f"""\
Starts one server for each arm (stock, a preset, or a setting of your own), measures the arms in turns
(A B B A) with SGLang's own load generator, and says for each cell (a prompt length at a concurrency) whether
an arm is faster or slower than the first one, or that no difference was seen. The first arm's difference
from itself is the noise floor.

There is no verdict, and the exit code is 2, if an arm does not serve what its name says, if requests fail,
if lengths or flags differ, or if a cache already knew the prompts. Prompts are new in each run (those of
--quality follow from --seed). Ctrl-C keeps what was measured and marks the report as partial (exit code
130). If a server dies, the end of its log is shown (exit code 1). No server is left running.

{live.ABOUT}"""

_EXAMPLES = f"""\
examples:
  hisa ab deepseek-ai/DeepSeek-V3.2 --tp 8
  hisa ab --arms stock,balanced,paper --cells '8k:1,4 256k:1' MODEL --tp 8
  hisa ab --arms stock,stock MODEL      A/A: how noisy is this machine?
  hisa ab --together --arms stock,paper MODEL --max-total-tokens 600000
                                        all servers at once on one GPU: saves
                                        minutes with a small model
  hisa ab --arms stock,paper,wide=paper:prefill_tokens=32768 MODEL
  hisa ab --cells '128k+64:1,16,64 64k:16' --output-tokens 128 MODEL
                                        decode of many requests, with a shared
                                        prefix and with distinct prompts
  hisa ab --plan MODEL                  how long would it take?
  hisa ab --resume --out hisa-ab MODEL  continue a run that was cut off
  hisa ab --urls stock=http://127.0.0.1:30000,paper=http://127.0.0.1:30001
                                        servers that already run
  hisa ab --from hisa-ab                render a kept record again
  hisa ab --from launch/results/ab-defaults.json --out DIR
{live.EXAMPLES}
writes to --out: report.html (plots and tables in one file), report.md (for a pull request), report.json
(everything), report.csv (rows); with --live also windows.jsonl and windows.csv (one row a window) and logs.
"""


_NOT_LIVE = (
    *("--cells", "--output-tokens", "--waves", "--rounds", "--warmup-tokens", "--alpha"),
    *("--quality", "--quality-prompts", "--together", "--urls", "--plan", "--resume"),
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "ab",
        help="compare stock DSA with HISA on a model and a load, with intervals and verdicts",
        description=_ABOUT,
        epilog=_EXAMPLES,
        usage="hisa ab [options] MODEL [SGLang flags...]",
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="model path or Hugging Face name")
    parser.add_argument(
        "--arms",
        default="stock,balanced",
        help="stock, presets, [name=]preset:key=value... and names of --arm; the first is the baseline",
    )
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="defines an arm of your own for --arms; JSON is a value of SGLANG_HISA",
    )
    parser.add_argument(
        "--cells",
        default="8k:1,4 32k:1,4 128k:1,4",
        help="prompt lengths, each with its concurrencies; 128k+64:16: 16 concurrent requests that share a "
        "prefix of 128K tokens and have 64 tokens of their own (default: %(default)s)",
    )
    parser.add_argument("--output-tokens", type=int, default=64, metavar="N", help="length of each answer")
    parser.add_argument(
        "--waves", type=int, default=1, metavar="N", help="prompts for each concurrent request"
    )
    parser.add_argument(
        "--rounds", type=int, default=6, metavar="N", help="measurements of each arm and cell"
    )
    parser.add_argument(
        "--warmup-tokens",
        default="1m",
        metavar="N",
        help="longest warm-up prompt of a cell; a cell with shorter prompts is warmed up with its own length",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        default=ALPHA,
        metavar="P",
        help="chance that an arm equal to the baseline is called faster or slower in any cell "
        f"(default: {ALPHA}); on a noisy machine use a lower value and more --rounds",
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=1,
        metavar="N",
        help="random prompts for each length whose answers are compared; 0: none; the baseline answers twice",
    )
    parser.add_argument(
        "--quality-prompts",
        type=Path,
        metavar="FILE",
        help="your own prompts instead: one JSON string on each line",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the prompts")
    parser.add_argument(
        "--together",
        action="store_true",
        help=f"run all servers at once, each started once; no verdict below {100 * START - 100:.0f} %% "
        "(needs --max-total-tokens)",
    )
    parser.add_argument(
        "--cpu", action="store_true", help="run on a CPU, with torch stand-ins (for `hisa model tiny`)"
    )
    parser.add_argument(
        "--urls",
        metavar="NAME=URL,…",
        help="servers that already run on this machine and serve nothing else meanwhile; the first is the "
        "baseline (see the example below)",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="only print what would be measured and about how long it would take",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run that was cut off in --out (same plan, flags, machine and code): keeps cells "
        "that all arms have, and with --quality 0 and without --together also those of a single arm",
    )
    parser.add_argument(
        "--timeout", type=float, default=1800, metavar="S", help="seconds that a server may take to start"
    )
    records.add_options(parser, "hisa-ab")
    live.add_arguments(parser)
    usage.settle(parser, run)


def _live(args: argparse.Namespace) -> int:
    if args.model is None and args.source is None:
        args.usage_error("MODEL is missing (or --from RECORD, to show a kept record)")
    usage.refuse_idle(args, _NOT_LIVE, "with --live, which serves your own traffic")
    try:
        settings = dict(map(parse_named, args.arm))
    except ValueError as error:
        args.usage_error(str(error))
    return live.run(args, settings)


def _running(args: argparse.Namespace) -> dict[str, Said]:
    """``/server_info`` of the arms of ``--urls``; what they serve is the model."""
    from sglang_hisa.launch.ab import running

    if args.model is not None or args.arm or args.resume or [word for word in args.rest if word != "--"]:
        args.usage_error(
            "--urls: these servers already have a model, arms and flags; give only --cells and the like"
        )
    try:
        infos = running.ask(running.parse(args.urls))
        running.arms(infos)
    except ValueError as error:
        args.usage_error(str(error))
    args.model, args.together = next(iter(infos.values()))["model_path"], True
    return infos


def run(args: argparse.Namespace) -> int:
    """Run or render; see the help for the exit codes."""
    from sglang_hisa.launch.ab import cell_tables, estimate, plan, quality, report, resume, running
    from sglang_hisa.launch.ab.record import AbRecord
    from sglang_hisa.launch.ab.runner import Runner

    if args.source is not None and not args.live:
        record = records.open_kept(args, AbRecord.load)
        folder = records.report_folder(args)
        report.render(args.source, folder)
        cell_tables.print_report(AbRecord.load(folder))
        return 2 if record.refusals else 0
    flags = usage.check_flags(args, args.model)
    if args.live:
        return _live(args)
    infos: dict[str, Said] = {}
    if args.urls is not None:
        infos = _running(args)
    if args.model is None:
        args.usage_error("MODEL is missing (or --from RECORD, to render a kept record)")
    usage.refuse_idle(args, live.OPTIONS, "without --live")
    if args.together and not (args.cpu or infos) and "--max-total-tokens" not in flags:
        args.usage_error(
            "--together shares one GPU: give --max-total-tokens N, the size of each server's pool"
        )
    prompts: list[quality.Prompt] = []
    try:
        wanted = plan.Plan(
            running.arms(infos) if infos else parse_arms(args.arms, dict(map(parse_named, args.arm))),
            plan.parse_cells(args.cells, args.output_tokens, args.waves),
            args.rounds,
            args.together,
            args.seed,
            plan.parse_tokens(args.warmup_tokens),
            args.alpha,
        )
        if not 0 < args.alpha < 1:
            raise ValueError(f"--alpha {args.alpha:g}: a chance is above 0 and below 1")
        if not (args.plan or infos):
            hisa = any(arm.setting for arm in wanted.arms)
            preflight.check(cpu=args.cpu, hisa=hisa, flags=flags, model=args.model)
        if not args.plan:
            preflight.check_reports()
            if not args.cpu:
                preflight.check_generator()
        if args.quality_prompts is not None:
            prompts = quality.read_prompts(args.quality_prompts)
        elif args.quality > 0:
            lengths = [cell.input_tokens for cell in wanted.cells]
            vocab = quality.model_shape(args.model).vocab
            prompts = quality.make_prompts(lengths, args.quality, vocab, args.seed)
    except (ValueError, OSError) as error:
        args.usage_error(str(error))
    if args.plan:
        print(estimate.work(wanted, resume.left(wanted.kept()), running=bool(infos)))
        return 0
    if wanted.rounds < MIN_PAIRS:
        print(f"hisa ab: {plan.too_few(wanted.rounds)}", file=sys.stderr)
    first = server.cpu_flags(args.model) if args.cpu else ["--model-path", args.model]
    own = [*first, "--random-seed", str(args.seed), *flags]
    make_env = server.cpu_env if args.cpu else server.child_env
    args.out = (args.out or Path("hisa-ab")) if args.resume else records.new_folder(args, "hisa-ab")
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        earlier = AbRecord.load(args.out) if args.resume and (args.out / "report.json").exists() else None
    except (ValueError, OSError) as error:
        args.usage_error(str(error))
    make_runner = functools.partial(
        Runner,
        plan=wanted,
        model=args.model,
        flags=running.flags(next(iter(infos.values()))) if infos else own,
        make_env=lambda setting: make_env(environment(), setting),
        folder=args.out,
        save=lambda record: record.save(args.out),
        tell=lambda line: print(f"hisa ab: {line[:150]}", file=sys.stderr, flush=True),
        timeout=args.timeout,
        prompts=prompts,
        earlier=earlier,
        urls=running.parse(args.urls) if infos else None,
    )
    try:
        runner = make_runner()
    except ValueError as error:
        args.usage_error(str(error))
    found = estimate.work(wanted, resume.left(wanted.kept(), runner.record.measurements), running=bool(infos))
    print(f"hisa ab: {found}", file=sys.stderr)
    code = runner.run()
    report.write(runner.record, args.out)
    cell_tables.print_report(AbRecord.load(args.out))
    print(f"{args.out / 'report.html'}")
    return code
