"""``hisa eval``: what does pruning cost in answers?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sglang_hisa.config import ConfigError, environment
from sglang_hisa.launch.cli import preflight, records, usage
from sglang_hisa.launch.common import auth, server
from sglang_hisa.launch.common.arms import Arm, parse_arm
from sglang_hisa.launch.common.help import Help
from sglang_hisa.launch.eval import families
from sglang_hisa.launch.eval.families import Family

if TYPE_CHECKING:
    from sglang_hisa.launch.eval.record import EvalRecord

_ABOUT = """\
Asks a server retrieval questions (a needle at five depths; multi-key 1, 2, 3 and variable tracking as in
RULER) and counts exact answers, with Wilson's 95 % intervals. Every arm gets the same prompts, so answers
lost and won against the first arm are counted pair by pair (McNemar's exact test).

The questions are in the language that launch/research/train taught the model: records for
launch/research/retriever (in a checkout); sentences in prose, also with multi-value and multi-query, for
a folder that contains a prose.txt. Any other model answers by chance.

For real models there are two other suites. --ruler2 is asked and graded by sgl-eval. --longbench is asked
and graded by EleutherAI's lm-eval; the report has the mean of scores between 0 and 1 with bootstrapped
intervals, and the difference to the first arm on the same prompts with its interval and the p-value of a
paired permutation test.

By default, lm-eval samples LongBench's answers at temperature 1 and silently drops the beginning of prompts
longer than 2048 tokens; LongBench itself cuts out their middle. Here the temperature is 0, and no prompt is
cut: --contexts (default: 128k) names the lengths by which answers are grouped, and prompts longer than the
longest one are left out of the scores and counted in the report. The prompts go to /v1/completions, without
a chat template. --samples N takes the first N prompts of each task; with fewer than about 50 the
bootstrapped intervals are too narrow.
"""

_EXAMPLES = """\
examples:
  hisa eval launch/research/retriever --arms stock,balanced,paper
  hisa eval retriever --arms stock,tight=paper:prefill_tokens=2048 --contexts 4k
  hisa eval http://127.0.0.1:30000 http://127.0.0.1:30001
                                      servers that already run
  hisa eval --cpu retriever --contexts 1k --samples 1
                                      on a CPU, with torch stand-ins
  hisa eval --ruler2 --contexts 32k,128k --tasks mk_niah_hard MODEL --tp 8
  hisa eval --longbench --samples 50 deepseek-ai/DeepSeek-V3.2 --tp 8
  hisa eval --from hisa-eval          show a kept report again

writes to --out: report.html (plots and tables in one file), report.md (for a pull request), report.csv
(rows), quality.json (every answer).
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "eval",
        help="count the answers that pruning costs in long prompts, with intervals",
        description=_ABOUT,
        epilog=_EXAMPLES,
        usage="hisa eval [options] MODEL [SGLang flags...] | hisa eval [options] URL...",
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("target", nargs="*", metavar="MODEL|URL", help="a model folder or name, or URLs")
    parser.add_argument(
        "--arms",
        default="stock,balanced,paper",
        help="stock, presets, [name=]preset:key=value...; the first is the baseline",
    )
    parser.add_argument(
        "--tasks",
        help="needle,multikey-1,multikey-2,multikey-3,tracking; prose: multivalue,multiquery (default: all)",
    )
    suites = parser.add_mutually_exclusive_group()
    suites.add_argument(
        "--longbench",
        action="store_true",
        help="LongBench's tasks for real models, asked and graded by lm-eval (downloads their texts)",
    )
    suites.add_argument(
        "--ruler2",
        action="store_true",
        help="RULER2's tasks for real models, asked and graded by sgl-eval (downloads their texts)",
    )
    parser.add_argument(
        "--contexts", help="prompt lengths in tokens (records: bytes; default: 4k,8k,16k,32k)"
    )
    parser.add_argument(
        "--samples", type=int, default=10, metavar="N", help="questions of each task, length and depth"
    )
    parser.add_argument("--at-once", type=int, default=8, metavar="N", help="questions in flight")
    parser.add_argument("--seed", type=int, default=1, help="seed of the prompts")
    parser.add_argument("--cpu", action="store_true", help="run on a CPU, with torch stand-ins")
    parser.add_argument("--together", action="store_true", help="run all servers at once (for a small model)")
    parser.add_argument(
        "--timeout", type=float, default=1800, metavar="S", help="seconds that a server may take to start"
    )
    records.add_options(parser, "hisa-eval", renders="show")
    usage.settle(parser, run)


def run(args: argparse.Namespace) -> int:
    """Ask or show; 0, 1 a server failed, 2 refused, 130 interrupted."""
    from sglang_hisa.launch.ab.plan import parse_tokens
    from sglang_hisa.launch.eval import longbench, report, ruler
    from sglang_hisa.launch.eval.suite import Plan, Run, run_arms, run_urls

    if args.source is not None:
        record = records.open_kept(args, report.load)
        return _show(record, records.report_folder(args, report.NAME))
    flags = usage.check_flags(args, args.target[0] if args.target else None)
    urls = [word for word in args.target if word.startswith(("http://", "https://"))]
    if not args.target or (not urls and len(args.target) > 1) or (urls and len(urls) < len(args.target)):
        args.usage_error("give one MODEL, or one or more URLs (or --from RECORD)")
    if urls:
        auth.use(auth.from_flags(flags))
        idle = [flag for flag in flags if flag.startswith("--") and not flag.startswith("--api-key")]
        idle += ["--arms", "--cpu", "--together", "--timeout"]
        usage.refuse_idle(args, idle, "on servers that already run")
    try:
        arms = tuple(Arm(url, None) for url in urls) or tuple(map(parse_arm, args.arms.split(",")))
        family = _family(urls, args.target[0])
        suite = "longbench" if args.longbench else "ruler2" if args.ruler2 else "own"
        usual = {"longbench": longbench.TASKS, "ruler2": ruler.TASKS, "own": family.tasks}[suite]
        known = usual + longbench.EVEN if args.longbench else usual
        tasks = args.tasks.split(",") if args.tasks else list(usual)
        lengths = args.contexts or ("128k" if args.longbench else "4k,8k,16k,32k")
        contexts = [parse_tokens(text) for text in lengths.split(",")]
        if unknown := set(tasks) - set(known):
            raise ValueError(f"unknown task {', '.join(sorted(unknown))}; allowed: {', '.join(known)}")
        if args.ruler2 and args.together:
            raise ValueError(
                "--ruler2 does not go with --together: the arms would make one data set at the same time"
            )
        if args.ruler2 and not ruler.installed():
            raise ValueError(ruler.MISSING)
        if args.longbench and not longbench.installed():
            raise ValueError(longbench.MISSING)
        if min(contexts) < family.least or args.samples < 1 or args.at_once < 1:
            raise ValueError(f"contexts are at least {family.least}, --samples and --at-once at least 1")
    except (ConfigError, ValueError) as error:
        args.usage_error(str(error))
    plan = Plan(
        arms,
        tuple(tasks),
        tuple(contexts),
        args.samples,
        args.at_once,
        args.seed,
        suite,
        family,
    )
    if not urls:
        hisa = any(arm.setting for arm in plan.arms)
        preflight.check(cpu=args.cpu, hisa=hisa, flags=flags, model=args.target[0])
    preflight.check_reports()
    args.out = records.new_folder(args, "hisa-eval", report.NAME)

    def tell(line: str) -> None:
        print(f"hisa eval: {line[:150]}", file=sys.stderr, flush=True)

    asked = Run(plan, args.target[0], args.out, tell)
    try:
        if urls:
            code = run_urls(asked, [url.rstrip("/") for url in urls])
        else:
            more = {"longbench": longbench.ROOM, "ruler2": 2 * ruler.ANSWER, "own": family.room}[suite]
            context = max(contexts) + more
            if args.cpu:
                first = server.cpu_flags(args.target[0], context=context, pool_tokens=2 * context)
            else:
                first = ["--model-path", args.target[0], "--context-length", str(context)]
            make_env = server.cpu_env if args.cpu else server.child_env
            code = run_arms(
                asked,
                flags=[*first, *flags],
                make_env=lambda setting: make_env(environment(), setting),
                timeout=args.timeout,
                together=args.together,
            )
    except KeyboardInterrupt:
        code = 130
    return _show(asked.record(), args.out) or code


def _family(urls: list[str], model: str) -> Family:
    """Of the model, or of what the first server names; a dead one is an error once it is asked."""
    from sglang_hisa.launch.eval import client

    try:
        return families.of_model(client.model_name(urls[0].rstrip("/")) if urls else model)
    except OSError:
        return families.RECORDS


def _show(record: EvalRecord, folder: Path) -> int:
    from sglang_hisa.launch.eval import report

    report.print_report(record)
    for path in report.write(record, folder):
        if path.name == "report.html":
            print(path)
    return 2 if record.refusals else 0
