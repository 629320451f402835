"""What ``hisa doctor MODEL [flags]`` says: what a model and flags would do, before anything loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sglang_hisa import PAGE
from sglang_hisa import config as settings
from sglang_hisa.config import PHASES, Config
from sglang_hisa.launch.cli import preflight, presets
from sglang_hisa.launch.common import model_config
from sglang_hisa.launch.common.text import K, tokens
from sglang_hisa.patches import architectures, contract
from sglang_hisa.patches.flags import value_of

CONTEXTS = tuple(K << n for n in range(3, 11))
"""8K to 1M: the rows of the table, as far as the model goes, and its longest context."""


@dataclass(frozen=True)
class Budget:
    """Tokens that a row of one context would score, by phase."""

    context: int
    decode: int
    prefill: int


@dataclass(frozen=True)
class Forecast:
    """What would be served. ``unknown`` says why there is nothing more: config.json cannot be read here."""

    model: str
    preset: str
    unknown: str = ""
    declined: tuple[str, ...] = ()
    """Reasons not to start, each with its fix."""
    architecture: str = ""
    layers: int = 0
    index_layers: int = 0
    """Those that choose tokens, which HISA prunes."""
    index_topk: int = 0
    budgets: tuple[Budget, ...] = ()
    summary_bytes_per_token: float = 0.0
    """Of GPU memory on each rank, in all layers."""
    summary_bytes: int | None = None
    """Of the whole pool, where ``--max-total-tokens`` names it."""


def make(model: str, config: Config, flags: Sequence[str]) -> Forecast:
    """Read config.json and work out what a server with these flags would do; needs torch, but no GPU."""
    try:
        found = preflight.config_of(model, flags)
    except model_config.ModelProblem as problem:
        return Forecast(model, config.title, declined=(f"{problem}; fix: {problem.fix}",))
    if found is None:
        return Forecast(model, config.title, unknown="its config.json cannot be read from here (offline?)")
    why = architectures.not_dsa(found)
    topk = architectures.attribute(found, "index_topk")
    if why or not topk:
        why = why or "index_topk is not in config.json, so its budgets are not known before it starts"
        return Forecast(model, config.title, declined=(f"{why}; fix: serve stock DSA",))
    return _of_dsa_model(model, config, flags, found, int(topk))


def _of_dsa_model(
    model: str, config: Config, flags: Sequence[str], found: Mapping[str, Any], topk: int
) -> Forecast:
    from sglang_hisa.kernels.layout import SUMMARY_BYTES
    from sglang_hisa.patches import forecast

    reasons = forecast.declined_flags(found, flags, contract.installed_version() or "")
    problems = settings.check_model(config, topk, PAGE)
    reasons += [f"{problem}; fix: {settings.fitting(config, topk)}" for problem in problems]
    layers = forecast.index_layers(found)
    if value_of(flags, "--speculative-algorithm", "--speculative-algo"):
        layers += int(architectures.attribute(found, "num_nextn_predict_layers") or 0)
    per_token = layers * SUMMARY_BYTES / PAGE
    pool = value_of(flags, "--max-total-tokens") or ""
    longest = value_of(flags, "--context-length") or ""
    limit = int(longest) if longest.isdecimal() else _longest(found)
    return Forecast(
        model=model,
        preset=config.title,
        declined=tuple(reasons),
        architecture=str(found["architectures"][0]),
        layers=int(architectures.attribute(found, "num_hidden_layers") or 0),
        index_layers=layers,
        index_topk=topk,
        budgets=() if problems else _budgets(config, found, topk, limit),
        summary_bytes_per_token=per_token,
        summary_bytes=round(per_token * int(pool)) if pool.isdecimal() else None,
    )


def _longest(found: Mapping[str, Any]) -> int:
    return int(architectures.attribute(found, "max_position_embeddings") or CONTEXTS[-1])


def _budgets(config: Config, found: Mapping[str, Any], topk: int, limit: int) -> tuple[Budget, ...]:
    from sglang_hisa.budget import make_rule

    first, last = (
        int(architectures.attribute(found, name) or 0) for name in ("index_init_tokens", "index_local_tokens")
    )
    rules = {phase: make_rule(config, phase, topk, first, last) for phase in PHASES}
    contexts = sorted({*(context for context in CONTEXTS if context < limit), limit})
    return tuple(
        Budget(length, *(min(length, rules[phase].count(length) * config.block) for phase in PHASES))
        for length in contexts
    )


def as_json(made: Forecast) -> dict[str, Any]:
    """The same for a script."""
    return asdict(made)


def _share(kept: int, context: int) -> Text:
    if kept >= context:
        return Text("all", style="dim")
    return Text(f"{kept:,} ({kept / context:.0%})")


def show(made: Forecast, config: Config, console: Console) -> None:
    """Print it."""
    console.print(f"\n{made.model} with {made.preset}", style="bold")
    for reason in made.declined:
        text, _, fix = reason.partition("; fix: ")
        console.print(Text(f"would not start: {text}", style="bold red"))
        console.print(Text(f"  fix: {fix}", style="bold"))
    if made.unknown:
        console.print(Text(f"not known: {made.unknown}", style="yellow"))
    if not made.architecture:
        return
    others = made.layers - made.index_layers
    reuse = f"; the other {others} reuse their choice" if others > 0 else ""
    console.print(
        f"{made.architecture}: {made.index_layers} of {made.layers} layers choose "
        f"{made.index_topk:,} tokens a row, and HISA prunes what they look at{reuse}"
    )
    _, block, decode, prefill, end = presets.row(config)
    console.print(f"decode {decode}, prefill {prefill}, blocks of {block}; end of a prompt: {end}")
    if made.budgets:
        table = Table("context", "decode row scores", "prefill row scores", box=SIMPLE_HEAD, pad_edge=False)
        for row in made.budgets:
            shares = (_share(kept, row.context) for kept in (row.decode, row.prefill))
            table.add_row(tokens(row.context), *shares)
        console.print(table)
    per_million = made.summary_bytes_per_token * (1 << 20) / (1 << 30)
    whole = "" if made.summary_bytes is None else f"; {made.summary_bytes / (1 << 30):.2f} GiB for your pool"
    each = f"{per_million:.2f} GiB for each 1M tokens of KV cache, on each rank"
    console.print(f"page summaries: {each}{whole}")
