"""``hisa doctor``: is this machine ready to serve HISA, if not, what to do, and what would a model do."""

from __future__ import annotations

import argparse
import dataclasses
import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa import config
from sglang_hisa.config import ConfigError
from sglang_hisa.launch.cli import checks, forecast, serve, usage
from sglang_hisa.launch.cli.checks import FAIL, OK, WARN, Finding, PatchRow
from sglang_hisa.launch.common.help import Help

_STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "doctor",
        help="check this machine: versions, patch table, GPU, plugins, settings",
        description="Checks versions, GPU, kernels, plugins, SGLANG_HISA, and the patch table against the "
        "source of the installed SGLang, without importing it. With MODEL it also says what this model would "
        "do with these settings and SGLang flags: which layers are pruned, budgets by context, memory of "
        "the page summaries, and what would be declined. The exit code is 1 if something must be fixed.",
        usage="hisa doctor [--json] [-v] [--preset P] [--set KEY=VALUE]...\n"
        "                   [MODEL [SGLang flags...]]",
        epilog="example:\n  hisa doctor deepseek-ai/DeepSeek-V3.2 --tp 8",
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="model path or Hugging Face name")
    serve.add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also show each patch and why it is there"
    )
    usage.settle(parser, run)


def _findings_table(findings: list[Finding]) -> Table:
    table = Table("check", "", show_edge=False, pad_edge=False)
    table.add_column("finding", overflow="fold")
    for finding in findings:
        detail = Text(finding.detail)
        if finding.fix:
            detail.append(f"\nfix: {finding.fix}", style="bold")
        table.add_row(finding.check, Text(finding.level, style=_STYLES[finding.level]), detail)
    return table


def _patch_table(rows: list[PatchRow]) -> Table:
    table = Table("", "kind", title="patch table", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("target", "why", "SGLang"):
        table.add_column(column, overflow="fold")
    for row in rows:
        level = FAIL if row.problems else OK
        target = row.target.removeprefix("sglang.").removeprefix("srt.")
        releases = ", ".join(row.releases)
        table.add_row(Text(level, style=_STYLES[level]), row.kind, target, row.why, releases)
    return table


def as_json(findings: list[Finding], rows: list[PatchRow], model: forecast.Forecast | None) -> str:
    """The same facts for a script: ``ok``, ``findings``, ``patches``, the resolved ``config``, ``model``."""
    try:
        current = config.from_env()
    except ConfigError:
        current = None
    report = {
        "ok": all(finding.level != FAIL for finding in findings) and not (model and model.declined),
        "model": None if model is None else forecast.as_json(model),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "patches": [dataclasses.asdict(row) for row in rows],
        "config": None if current is None else dataclasses.asdict(current),
    }
    return json.dumps(report, indent=2)


def run(args: argparse.Namespace) -> int:
    """Print the findings, and what MODEL would do; 1 when something must be fixed."""
    flags = usage.check_flags(args, args.model)
    try:
        wanted = serve.requested(args.preset, args.settings)
    except ConfigError as error:
        if args.preset is not None or args.settings:
            args.usage_error(str(error))
        wanted = config.Config()  # of the environment: reported below
    with Console(stderr=True).status("looking at torch, the GPU and SGLang's source"):
        findings = checks.diagnose(checks.find_gpu())
        rows = checks.patch_rows()
        model = forecast.make(args.model, wanted, flags) if args.model else None
    failed = sum(finding.level == FAIL for finding in findings)
    if args.json:
        print(as_json(findings, rows, model))
        return int(failed > 0 or bool(model and model.declined))
    console = Console(highlight=False, markup=False)
    console.print(_findings_table(findings))
    if args.verbose:
        console.print()
        console.print(_patch_table(rows))
    if model:
        forecast.show(model, wanted, console)
        failed += len(model.declined)
    warned = sum(finding.level == WARN for finding in findings)
    verdict = f"{failed} to fix" if failed else "nothing to fix"
    console.print(
        f"\n{verdict}, {warned} warning{'s' * (warned != 1)}", style=f"bold {'red' if failed else 'green'}"
    )
    return int(failed > 0)
