"""``hisa ab --live``: both arms at once behind sglang-router, on the user's own traffic."""

from __future__ import annotations

import argparse
import sys

from sglang_hisa.config import environment
from sglang_hisa.launch.cli import preflight, records
from sglang_hisa.launch.common import server
from sglang_hisa.launch.common.gpus import visible_gpus

ABOUT = """\
--live serves your own traffic instead: both arms run at once behind SGLang's router (sglang-router, an extra
package), which sends --share of the requests to the second arm. Requests, latencies, throughput, cache hits,
candidate share, canary and audit of each arm are shown as they come. On Ctrl-C or SIGTERM the port closes,
accepted requests finish (--drain-timeout), and then the servers stop; a second Ctrl-C does not wait. The exit
code is 1 if an arm died (the other one takes over its traffic) or requests were cut off. The arms get
different requests, so there is no verdict, and turns of one conversation may reach both arms.
"""

EXAMPLES = """\
  hisa ab --live --arms stock,balanced --share 0.1 --port 30000 MODEL
                                        one arm on each of two GPUs; every tenth
                                        request goes to balanced
  hisa ab --live --share 1/2 MODEL --max-total-tokens 200000
                                        both arms share one GPU
"""


OPTIONS = ("--share", "--host", "--port", "--every", "--drain-timeout")
"""Those that only --live reads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that only --live reads."""
    live = parser.add_argument_group("--live")
    live.add_argument("--live", action="store_true", help="serve your own traffic with two arms at once")
    live.add_argument(
        "--share",
        default="0.5",
        metavar="X",
        help="share of the second arm: a multiple of 0.05, or a fraction with at most 20 parts",
    )
    live.add_argument(
        "--host", default="127.0.0.1", help="address that the router listens on (default: 127.0.0.1)"
    )
    live.add_argument("--port", type=int, default=30000, help="port of the router (default: 30000)")
    live.add_argument(
        "--every",
        type=float,
        default=10,
        metavar="S",
        help="seconds between two rows of the report (default: 10)",
    )
    live.add_argument(
        "--drain-timeout",
        type=float,
        default=600,
        metavar="S",
        help="seconds that accepted requests may take to finish (default: 600)",
    )


def run(args: argparse.Namespace, settings: dict[str, str]) -> int:
    """Serve, or show a kept record; see the help for the exit codes. ``settings``: arms of the user's own."""
    from sglang_hisa.launch.common.arms import parse_arms
    from sglang_hisa.launch.live import report, router, split
    from sglang_hisa.launch.live.record import LiveRecord
    from sglang_hisa.launch.live.screen import Screen
    from sglang_hisa.launch.live.watch import Runner

    if args.source is not None:
        record = records.open_kept(args, LiveRecord.load)
        folder = records.report_folder(args)
        report.print_report(record)
        kept = args.source if args.source.is_dir() else args.source.parent
        print(report.write(record, kept, folder)[0])
        return 0
    flags = [word for word in args.rest if word != "--"]
    try:
        arms = parse_arms(args.arms, settings)
        if len(arms) != 2:
            raise ValueError(f"--live compares two arms; --arms names {len(arms)}")
        share = split.parse_share(args.share)
        if min(args.every, args.drain_timeout) <= 0:
            raise ValueError("--every and --drain-timeout are longer than 0 s")
    except ValueError as error:
        args.usage_error(str(error))
    gpus = None
    if args.cpu:
        place = "the arms share a CPU"
    elif gpus := split.own_gpus(visible_gpus(environment()), split.gpus_per_server(flags)):
        place = f"GPUs {gpus[0]} and {gpus[1]}"
    else:
        place = "the arms share their GPUs"
        if "--max-total-tokens" not in flags:
            args.usage_error(
                "too few GPUs, so both arms share them: give --max-total-tokens N, the pool of each server"
            )
    if not router.installed():
        print(router.MISSING, file=sys.stderr)
        return 1
    preflight.check(cpu=args.cpu, hisa=any(arm.setting for arm in arms), flags=flags, model=args.model)
    preflight.check_port(["--port", str(args.port)])
    args.out = records.new_folder(args, "hisa-ab")
    first = server.cpu_flags(args.model) if args.cpu else ["--model-path", args.model]
    make_env = server.cpu_env if args.cpu else server.child_env
    (args.out / "windows.jsonl").unlink(missing_ok=True)
    with Screen() as screen:
        runner = Runner(
            arms=(arms[0], arms[1]),
            share=share,
            gpus=gpus,
            place=place,
            model=args.model,
            flags=[*first, "--random-seed", str(args.seed), "--enable-metrics", *flags],
            make_env=lambda setting: make_env(environment(), setting),
            host=args.host,
            port=args.port,
            every=args.every,
            drain_s=args.drain_timeout,
            folder=args.out,
            tell=screen.tell,
            show=screen.show,
            timeout=args.timeout,
        )
        code = runner.run()
    report.print_report(runner.record)
    print(report.write(runner.record, args.out, args.out)[0])
    return code
