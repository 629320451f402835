"""``hisa status URL``: what a running server says of itself."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa.config import ENV_KEY
from sglang_hisa.launch.common import auth
from sglang_hisa.launch.common.help import Help
from sglang_hisa.launch.common.server import fetch

_ABOUT = """\
Shows a running server's receipt: whether HISA is active and with which settings, how many rows it served
and how much of their context they scored, and what the audit and the canary found. The exit code is 0 if
HISA is active on every scheduler and the canary found nothing, 1 if no SGLang server answers or it refuses
the API key, and 2 if the server serves stock DSA or the canary found wrong summaries.
"""

Receipts = Sequence[Mapping[str, Any] | None]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "status",
        help="show what a running server does: receipt, candidate shares, audit, canary",
        description=_ABOUT,
        epilog="example:\n  hisa status http://127.0.0.1:30000 --json",
        formatter_class=Help,
    )
    parser.add_argument("url", metavar="URL", help="a running server, such as http://127.0.0.1:30000")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument(
        "--api-key", metavar="KEY", help=f"the server's API key (default: the environment's {ENV_KEY})"
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def ask(url: str) -> dict[str, Any]:
    """``{"url", "version", "model", "kv_tokens", "receipts"}`` of a server; a receipt is None where it serves
    stock DSA.

    Raises:
        OSError: no answer, or a refusal.
        ValueError: not SGLang's.
    """
    info = json.loads(fetch(f"{url}/server_info", timeout=20))
    try:
        return {
            "url": url,
            "version": info["version"],
            "model": info.get("served_model_name") or info["model_path"],
            "kv_tokens": info["max_total_num_tokens"],
            "receipts": [state.get("sglang_hisa") for state in info["internal_states"]],
        }
    except (KeyError, TypeError, AttributeError):
        raise ValueError("the server that answers is not SGLang") from None


def code(receipts: Receipts) -> int:
    """The exit code: 0 active everywhere, 2 not."""
    good = (one and one["active"] and not one["canary"]["violations"] for one in receipts)
    return 0 if receipts and all(good) else 2


def _title(one: Mapping[str, Any]) -> str:
    changed = ", ".join(one.get("changed", ()))
    return f"{one['preset']} (changed: {changed})" if changed else str(one["preset"])


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else format(value, form)


def _audit(one: Mapping[str, Any]) -> str:
    audit = one["audit"]
    if not audit["rows"]:
        return "off" if not one["config"]["audit"] else "no pruned row audited yet"
    return (
        f"recall {_number(audit['recall'])} of {audit['rows']:,} rows; worst layer {audit['worst_layer']}: "
        f"{_number(audit['worst_recall'])}; missed mass {_number(audit['missed_mass'], '.2%')}"
    )


def _canary(one: Mapping[str, Any]) -> str:
    canary = one["canary"]
    if canary["mode"] == "off":
        return "off"
    found = f"{canary['violations']:,} wrong of {canary['checks']:,} summaries ({canary['mode']})"
    return f"{found}: {canary['first']}" if canary["violations"] else found


def rows(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The receipt of one scheduler, readable."""
    graphs = f"{one['graphs_with_hisa']} with HISA, {one['stock_decode_graphs']} with stock DSA"
    gpu = one["gpu"]
    found = [
        ("active", "yes" if one["active"] else "NO"),
        ("preset", _title(one)),
        ("version", f"{one['version']}, SGLang {one['sglang']}"),
        ("GPU", f"{gpu['name']}{'' if gpu['verified'] else ' (unverified)'}" if gpu else "none"),
        ("layers", f"{one['layers']}" + (f", {one['draft_layers']} of drafts" * bool(one["draft_layers"]))),
        ("captured graphs", graphs),
        ("kernels", ", ".join(part for part in (one["kernels"], one["refine"]) if part) or "none ran yet"),
        ("page summaries", f"{one['summary_bytes'] / (1 << 20):,.1f} MiB"),
    ]
    for phase in ("prefill", "decode"):
        seen = one["rows"][phase]
        share = seen["candidate_share"]
        looked = (
            "no row yet" if share is None else f"{seen['rows']:,} rows, scored {share:.1%} of their context"
        )
        heads = one["config"].get(f"{phase}_heads", 1)
        if share is not None and heads < 1:
            looked += f", by {heads:g} of the heads beyond {one['config'][f'{phase}_tokens']:,} tokens"
        found.append((phase, looked))
    for reason, count in one["rows"]["stock"].items():
        found.append(("left to stock DSA", f"{count:,} rows ({reason})"))
    for mover, pages in one["summary_rebuilds"].items():
        found.append(("resealed", f"{pages:,} pages ({mover})"))
    return [*found, ("audit", _audit(one)), ("canary", _canary(one))]


def show(status: Mapping[str, Any], console: Console) -> None:
    """Print a table for each scheduler; those that say the same are shown once."""
    where = f"{status['url']}: {status['model']}, SGLang {status['version']}"
    console.print(Text(f"{where}, {status['kv_tokens']:,} KV tokens"))
    shown: dict[str, list[int]] = {}
    for rank, one in enumerate(status["receipts"]):
        shown.setdefault(json.dumps(rows(one) if one else None), []).append(rank)
    for text, ranks in shown.items():
        names = ", ".join(map(str, ranks))
        title = f"scheduler {names}" if len(status["receipts"]) > 1 else None
        found = json.loads(text)
        if found is None:
            console.print(Text(f"{title or 'this server'}: stock DSA, no HISA receipt", style="bold"))
            continue
        table = Table(box=SIMPLE_HEAD, show_header=False, pad_edge=False, title=title, title_justify="left")
        for name, value in found:
            bad = value == "NO" or (name == "canary" and ": " in value)
            table.add_row(name, Text(value, style="bold red" if bad else ""))
        console.print(table)


def run(args: argparse.Namespace) -> int:
    """Ask and print; see the help for the exit codes."""
    auth.use(args.api_key)
    url = (args.url if "://" in args.url else f"http://{args.url}").rstrip("/")
    try:
        status = ask(url)
    except (OSError, ValueError) as error:
        refused = getattr(error, "code", None) in (401, 403)
        why = f"it refuses the API key: {auth.HOW}" if refused else getattr(error, "reason", None) or error
        print(f"hisa status: no status of {url}: {why}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({**status, "active": code(status["receipts"]) == 0}, indent=2))
    else:
        show(status, Console(highlight=False))
    return code(status["receipts"])
