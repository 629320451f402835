"""``hisa doctor``: is this machine ready to serve HISA, and if not, what to do."""

from __future__ import annotations

import argparse
import dataclasses
import json

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa import config
from sglang_hisa.config import ConfigError
from sglang_hisa.launch.cli import checks
from sglang_hisa.launch.cli.checks import FAIL, OK, WARN, Finding, PatchRow

_STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "doctor",
        help="check this machine: versions, patch table, GPU, plugins, settings",
        description="Check versions, GPU, kernels, the patch table against the installed SGLang's source, "
        "plugins and SGLANG_HISA, without importing SGLang. Exit code 1 when something must be fixed.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("-v", "--verbose", action="store_true", help="show each patch and why it is there")
    parser.set_defaults(run=run)


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


def as_json(findings: list[Finding], rows: list[PatchRow]) -> str:
    """The same facts for a script: ``ok``, ``findings``, ``patches`` and the resolved ``config``."""
    try:
        current = config.from_env()
    except ConfigError:
        current = None
    report = {
        "ok": all(finding.level != FAIL for finding in findings),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "patches": [dataclasses.asdict(row) for row in rows],
        "config": None if current is None else dataclasses.asdict(current),
    }
    return json.dumps(report, indent=2)


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 when one of them is a FAIL."""
    with Console(stderr=True).status("looking at torch, the GPU and SGLang's source"):
        findings = checks.diagnose(checks.find_gpu())
        rows = checks.patch_rows()
    failed = sum(finding.level == FAIL for finding in findings)
    if args.json:
        print(as_json(findings, rows))
        return int(failed > 0)
    console = Console(highlight=False, markup=False)
    console.print(_findings_table(findings))
    if args.verbose:
        console.print()
        console.print(_patch_table(rows))
    warned = sum(finding.level == WARN for finding in findings)
    verdict = f"{failed} to fix" if failed else "nothing to fix"
    console.print(
        f"\n{verdict}, {warned} warning{'s' * (warned != 1)}", style=f"bold {'red' if failed else 'green'}"
    )
    return int(failed > 0)
