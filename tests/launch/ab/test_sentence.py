"""One sentence an arm says what its verdicts and answers say."""

from dataclasses import replace
from typing import Any

import pytest

from sglang_hisa.launch.ab import formatting, sentence, stats
from tests.launch.ab.records import make, typed

SIZES = (8, 32, 128)


def said(ttft: tuple[str, ...], itl: tuple[str, ...], speed: float = 1.5, quality: Any = ()) -> str:
    """Of a record whose cells (8K, 32K, 128K; one request) have these verdicts."""
    cells = [
        {"input_tokens": size * 1024, "output_tokens": 32, "concurrency": 1, "requests": 1} for size in SIZES
    ]
    record = make({"stock": 1, "paper": 1}, cells=cells)
    record["quality"] = list(quality)
    kept = typed(record)
    found = formatting.comparisons(kept)
    for cell in range(3):
        for metric, word, ratio in (("ttft", ttft[cell], speed + cell / 10), ("itl", itl[cell], speed)):
            place = ("paper", cell, metric)
            found[place] = replace(found[place], verdict=word, speedup=ratio)
    (line,) = sentence.sentences(kept, found)
    return line


F, S, N, T = stats.FASTER, stats.SLOWER, stats.SAME, stats.TOO_FEW


@pytest.mark.parametrize(
    ("ttft", "itl", "wanted"),
    [
        (
            (N, N, F),
            (N, N, N),
            "1.70× faster to the first token at 128K, no difference below, no difference per token",
        ),
        (
            (N, F, F),
            (N, N, N),
            "1.60× to 1.70× faster to the first token at 32K and 128K, no difference below, no",
        ),
        (
            (F, N, N),
            (T, T, T),
            "1.50× faster to the first token at 8K, no difference at 32K and 128K, too few pairs",
        ),
        (
            (N, S, F),
            (N, N, S),
            "1.70× faster to the first token at 128K, 1.60× as fast to the first token at 32K, no",
        ),
        ((N, N, N), (N, N, N), "no difference to the first token, no difference per token; answers"),
        (
            (N, T, N),
            (N, N, N),
            "no difference to the first token at 8K and 128K, too few pairs to the first token at",
        ),
        ((T, T, T), (T, T, T), "too few pairs for a verdict; answers not compared"),
    ],
)
def test_speed(ttft: tuple[str, ...], itl: tuple[str, ...], wanted: str) -> None:
    assert said(ttft, itl).startswith(f"paper: {wanted}")


def answer(arm: str, kl: float, same: float) -> dict[str, Any]:
    asked = {"arm": arm, "prompt": 0, "prompt_tokens": 99, "positions": 64, "overlap": None}
    return {**asked, "kl_mean": kl / 2, "kl_max": kl, "same_first": same}


@pytest.mark.parametrize(
    ("kl", "same", "wanted"),
    [
        (1e-5, 1.0, "answers unchanged"),
        (1e-2, 1.0, "answers: 100% of the likeliest tokens are the same, KL 5.0e-03"),
        (1e-5, 0.5, "answers: 50% of the likeliest tokens are the same, KL 5.0e-06"),
    ],
)
def test_answers(kl: float, same: float, wanted: str) -> None:
    """The baseline against itself says what is no difference."""
    rows = [answer("stock", 1e-5, 1.0), answer("paper", kl, same)]
    assert said((N, N, N), (N, N, N), quality=rows).endswith(f"; {wanted}")


def test_at_steady_state_where_there_is_one_and_silent_when_refused() -> None:
    cells = [
        {"input_tokens": 1088, "output_tokens": 40, "concurrency": 4, "requests": 4, "prefix_tokens": 1024}
    ]
    record = make({"stock": 1, "paper": 2}, cells=cells)
    for one in record["measurements"]:
        rate = 400 if one["arm"] == "paper" else 200
        one["steady"] = {
            **{"at_once": 4, "tokens": 100, "window_s": 1.0, "share": 0.5, "requests_s": 1.0},
            **{"itl_p50": 4 / rate, "itl_p99": 1.0, "tpot": 4 / rate, "output_tok_s": rate},
        }
    kept = typed(record)
    found = formatting.comparisons(kept)
    assert {metric for _, _, metric in found} == set(stats.STEADY)
    place = ("paper", 0, "steady_itl")
    found[place] = replace(found[place], verdict=F)
    (line,) = sentence.sentences(kept, found)
    assert line == "paper: 2.00× faster per token at 1K shared + 64 × 4; answers not compared"
    assert sentence.sentences(replace(kept, refusals=("x",)), found) == []
