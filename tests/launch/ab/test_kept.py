"""What a record keeps of the benchmark's result."""

from typing import Any

from sglang_hisa.launch.ab import client
from sglang_hisa.launch.ab.plan import Cell

RESULT: dict[str, Any] = {
    **{"completed": 2, "errors": ["", "reset", ""], "input_lens": [128, 128, 128], "output_lens": [3, 0, 3]},
    **{"ttfts": [0.5, 0.0, 0.75], "itls": [[0.01, 0.03], [], [0.02, 0.04]], "cached_tokens": [64, 0, 64]},
    **{"output_throughput": 6.0, "total_throughput": 262.0, "duration": 1.0},
}


def test_times_are_of_the_requests_that_did_not_fail() -> None:
    found = client.kept(RESULT, "paper", 1, 0, Cell(128, 3, 3, 3), 7)
    assert found.ttft_s == (0.5, 0.75) and found.tpot_s == (0.02, 0.03)
    assert found.itl_s == (0.01, 0.03, 0.02, 0.04)
    assert found.errors == ("reset",) and found.cached_tokens == 128 and found.failed


def test_requests_that_share_a_prefix_have_no_times_of_single_tokens() -> None:
    found = client.kept(RESULT, "paper", 1, 0, Cell(128, 3, 3, 3, 64), 7)
    assert found.itl_s == () and found.ttft_s == (0.5, 0.75) and found.tpot_s == (0.02, 0.03)
