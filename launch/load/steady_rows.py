"""Decode at steady state, for every form of a load report."""

from __future__ import annotations

from typing import Any

from sglang_hisa.launch.common import steady
from sglang_hisa.launch.load import formatting

TITLE = "Decode while all requests of a load decode"
HEAD = ("at once", "ITL p50 / p99 ms", "TPOT ms", "output tok/s", "requests/s", "window")


def rows(record: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each load under ``HEAD``; none for a load whose window holds too few tokens."""
    out: list[tuple[str, ...]] = []
    for point in formatting.stats(record)["points"]:
        if found := point.get("steady"):
            out.append(
                (
                    f"{point['load']:g}",
                    f"{found['itl_p50'] * 1e3:,.2f} / {found['itl_p99'] * 1e3:,.2f}",
                    f"{found['tpot'] * 1e3:,.2f}",
                    f"{found['output_tok_s']:,.0f}",
                    f"{found['requests_s']:,.2f}",
                    f"{found['window_s']:.1f} s, {found['share']:.0%}",
                )
            )
    return out


def notes(record: dict[str, Any]) -> list[str]:
    """Loads without a steady state, if other loads were measured for it; records from before it have none."""
    if record["plan"]["sweep"]["kind"] != "concurrency" or record["plan"]["workload"]["turns"] > 1:
        return []
    loads = [
        f"{kept['load']:g}"
        for kept in record["points"]
        if "steady" in kept and not steady.enough(kept["steady"])
    ]
    if not loads:
        return []
    return [
        f"At {', '.join(loads)} at once fewer than {steady.ENOUGH} tokens a request came while all decoded: "
        "no steady state is shown; take more --output-tokens or --requests."
    ]
