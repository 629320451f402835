"""The tables of decode with many requests, from comparisons that are given."""

from sglang_hisa.launch.ab import stats
from sglang_hisa.launch.ab.plan import parse_cells
from sglang_hisa.launch.ab.record import Comparison
from sglang_hisa.launch.pages import many_tables

STOCK = {1: 12.8, 16: 15.8, 64: 25.5, 128: None}
PAPER = {1: 12.3, 16: 13.4, 64: 15.5, 128: 24.0}


def made(cells: str, verdict: str = stats.FASTER) -> str:
    plan = parse_cells(cells, 64, 1)

    def found(arm: str, cell: int, metric: str) -> Comparison:
        at_once = plan[cell].concurrency
        base, own = STOCK[at_once], PAPER[at_once]
        if metric == "steady_throughput":
            base, own = (at_once / x * 1e6 if x else None for x in (base, own))
        speedup = (
            None if base is None or own is None else base / own if metric == "steady_itl" else own / base
        )
        low, high = (None, None) if speedup is None else (speedup - 0.01, speedup + 0.01)
        return Comparison(
            **{"arm": arm, "cell": cell, "metric": metric, "verdict": verdict},
            **{"baseline_median": base and base / 1e3, "arm_median": own and own / 1e3},
            **{"speedup": speedup, "low": low, "high": high},
        )

    return many_tables.decode(plan, "stock", ["paper"], found)


def test_loads_are_in_order_whatever_was_measured_first() -> None:
    lines = made("128k+64:64,1,16").splitlines()
    assert lines[0] == "| shared prefix × at once | ITL, stock | `paper` | tok/s, stock | `paper` |"
    assert lines[2:5] == [
        "| 128K × 1 | 12.8 ms | **1.04× [1.03, 1.05]** | 78 | 81 |",
        "| 128K × 16 | 15.8 ms | **1.18× [1.17, 1.19]** | 1,013 | 1,194 |",
        "| 128K × 64 | 25.5 ms | **1.65× [1.64, 1.66]** | 2,510 | 4,129 |",
    ]
    assert "**" not in made("128k+64:64", stats.SAME)


def test_requests_within_the_limit_and_their_ratio() -> None:
    """20 ms: 36.8 requests of stock, and of paper on the line from 64 (15.5 ms) to 128 (24.0 ms) 97.9."""
    text = made("128k+64:64,1,16,128")
    assert "| 128K | 37 | 98 (2.7×) |" in text and "within 20 ms a token" in text
    assert "128K × 128" not in text, "stock has no valid window there"
    assert "| 128K | 37 | at least 64 (at least 1.7×) |" in made("128k+64:64,16")
    assert "within" not in made("128k+64:64"), "one load has no line"


def test_distinct_prompts_are_named_so() -> None:
    text = made("64k:64")
    assert text.startswith("| prompt × at once |") and "| 64K × 64 |" in text and "within" not in text
