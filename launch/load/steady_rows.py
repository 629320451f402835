"""Decode at steady state, for every form of a load report."""

from __future__ import annotations

from sglang_hisa.launch.common import steady
from sglang_hisa.launch.load.record import LoadRecord

TITLE = "Decode while all requests of a load decode"
HEAD = ("at once", "ITL p50 / p99 ms", "TPOT ms", "output tok/s", "requests/s", "window")


def rows(record: LoadRecord) -> list[tuple[str, ...]]:
    """A row for each load under ``HEAD``; none for a load whose window holds too few tokens."""
    out: list[tuple[str, ...]] = []
    for point in record.stats.points:
        if found := point.steady:
            out.append(
                (
                    f"{point.load:g}",
                    f"{found.itl_p50 * 1e3:,.2f} / {found.itl_p99 * 1e3:,.2f}",
                    f"{found.tpot * 1e3:,.2f}",
                    f"{found.output_tok_s:,.0f}",
                    f"{found.requests_s:,.2f}",
                    f"{found.window_s:.1f} s, {found.share:.0%}",
                )
            )
    return out


def notes(record: LoadRecord) -> list[str]:
    """Loads without a steady state; of records from before it, which have no limits either, none."""
    loads = [f"{point.load:g}" for point in record.stats.points if point.steady is None]
    if not loads or record.plan.by_rate or record.plan.conversations or record.limits is None:
        return []
    return [
        f"At {', '.join(loads)} at once fewer than {steady.ENOUGH} tokens a request came while all decoded: "
        "no steady state is shown; take more --output-tokens or --requests."
    ]
