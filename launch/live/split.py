"""How traffic and GPUs are split between two arms."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction

SLOTS = 20
"""Most places of the router's round: the smallest share is 1 of 20, and every multiple of 0.05 is exact."""


def parse_share(text: str) -> Fraction:
    """The fraction of at most :data:`SLOTS` parts that is nearest to ``text``: the second arm's share.

    Raises:
        ValueError: not a number, or that fraction is 0 or 1.
    """
    try:
        share = Fraction(text).limit_denominator(SLOTS)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"--share {text}: expected a number such as 0.1 or 1/4") from None
    if not 0 < share < 1:
        raise ValueError(f"--share {text}: must lie between 1/{SLOTS} and {SLOTS - 1}/{SLOTS}")
    return share


def worker_urls(share: Fraction, first: str, second: str) -> list[str]:
    """The router's workers: each arm's URL as often as its share of the round asks.

    The router's policies know no weights, and it takes a URL once. ``/.`` is a segment that every URL parser
    drops (RFC 3986, 5.2.4), so it spells one server in many ways.
    """
    counts = ((first, share.denominator - share.numerator), (second, share.numerator))
    return [url + "/." * again for url, count in counts for again in range(count)]


def gpus_per_server(flags: Sequence[str]) -> int:
    """GPUs that one server with these flags takes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--tp", "--tp-size", "--tensor-parallel-size", type=int, default=1, dest="tp")
    parser.add_argument("--pp", "--pp-size", "--pipeline-parallel-size", type=int, default=1, dest="pp")
    parser.add_argument("--dp", "--dp-size", "--data-parallel-size", type=int, default=1, dest="dp")
    parser.add_argument("--enable-dp-attention", action="store_true")
    found, _ = parser.parse_known_args(flags)
    return int(found.tp * found.pp * (1 if found.enable_dp_attention else found.dp))


def own_gpus(gpus: Sequence[str], each: int, arms: int = 2) -> list[str] | None:
    """``CUDA_VISIBLE_DEVICES`` of each arm; None where there are too few, so that the arms must share."""
    if len(gpus) < each * arms:
        return None
    return [",".join(gpus[each * arm : each * (arm + 1)]) for arm in range(arms)]
