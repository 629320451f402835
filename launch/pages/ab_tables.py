"""Tables of the records of `hisa ab`."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.ab.record import AbRecord, Comparison
from sglang_hisa.launch.common.text import table, tokens
from sglang_hisa.launch.pages.reader import Reader


def headline(read: Reader) -> str:
    """TTFT by prompt, a column for each arm."""
    record, arms = read(AbRecord, "ab-defaults"), ("balanced", "paper")
    lines = []
    for number, cell in enumerate(record.plan.cells):
        mine = [record.found(arm, number, "ttft") for arm in arms]
        cells = (f"{one.arm_median:.1f} ({one.speedup:.2f}×)" for one in mine)
        lines.append([tokens(cell.input_tokens), f"{mine[0].baseline_median:.1f}", *cells])
    return table(["prompt", "stock", *_code(arms)], lines) + "\n\n" + read.source("ab-defaults")


def medians(record: AbRecord) -> tuple[list[str], list[list[str]]]:
    """Head and rows: the baseline's TTFT and ITL, and each arm's speed-up, bold where a difference was seen.

    A speed-up of too few pairs for an interval stands alone.
    """
    arms, baseline = record.plan.others, record.plan.baseline

    def effect(one: Comparison) -> str:
        if one.low is None:
            return f"{one.speedup:.2f}×"
        text = f"{one.speedup:.2f}× [{one.low:.2f}, {one.high:.2f}]"
        return f"**{text}**" if one.verdict in (stats.FASTER, stats.SLOWER) else text

    lines = []
    for number, cell in enumerate(record.plan.cells):
        ttft, itl = ([record.found(arm, number, metric) for arm in arms] for metric in ("ttft", "itl"))
        lines.append(
            [
                f"{tokens(cell.input_tokens)} × {cell.concurrency}",
                f"{ttft[0].baseline_median:.2f} s",
                *map(effect, ttft),
                f"{(itl[0].baseline_median or 0) * 1e3:.1f} ms",
                *map(effect, itl),
            ]
        )
    names, of = _code(arms), baseline if baseline == "stock" else f"`{baseline}`"
    return ["prompt × at once", f"TTFT, {of}", *names, f"ITL, {of}", *names], lines


def of(*names: str) -> Callable[[Reader], str]:
    """A table for each of these records, each with its origin."""

    def tables(read: Reader) -> str:
        parts = ((table(*medians(read(AbRecord, name))), read.source(name)) for name in names)
        return "\n\n".join(text for part in parts for text in part)

    return tables


def longest(*names: str) -> Callable[[Reader], str]:
    """Each measurement by itself, for records that have too few for an interval."""

    def tables(read: Reader) -> str:
        lines = [line for name in names for line in _measurements(read(AbRecord, name))]
        head = ["256K × 1", "GPU", "commit", "prompt of its server", "TTFT", "stock's / TTFT", "ITL, median"]
        return table(head, lines) + "\n\n" + read.source(*names)

    return tables


def _measurements(record: AbRecord) -> list[list[str]]:
    where, arm, prompts, lines = record.provenance, "", 0, []
    stock = next(one for one in record.measurements if one.arm == "stock").ttft_s[0]
    for one in record.measurements:
        prompts = prompts + 1 if one.arm == arm else 1  # a server stays up until another arm's turn
        arm, ttft = one.arm, one.ttft_s[0]
        name = arm if arm == "stock" else f"`{arm}`"
        times = [f"{ttft:.1f} s", f"{stock / ttft:.2f}×", f"{median(one.itl_s) * 1e3:.1f} ms"]
        lines.append([name, where.gpus[0], str(where.commit), str(prompts), *times])
    return lines


def _code(names: tuple[str, ...]) -> list[str]:
    return [f"`{name}`" for name in names]
