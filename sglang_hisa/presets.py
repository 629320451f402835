"""The named settings that users start from."""

from __future__ import annotations

from typing import Any

_PAIRS: dict[str, Any] = {"prefill_group": 2, "prefill_heads": 1.0}
"""All heads, and the largest group that they pay for."""
PRESETS: dict[str, dict[str, Any]] = {
    "balanced": {},
    "decode-only": {**_PAIRS, "prefill_tokens": 0, "prefill_fraction": 0.0, "dense_tail_tokens": 0},
    "paper": {
        **_PAIRS,
        "block": 128,
        "decode_tokens": 8192,
        "decode_fraction": 0.0,
        "prefill_tokens": 8192,
        "prefill_fraction": 0.0,
        "dense_tail_tokens": 0,
    },
    "paper-4to1": {
        **_PAIRS,
        "block": 128,
        "decode_tokens": 4096,
        "decode_fraction": 0.25,
        "prefill_tokens": 4096,
        "prefill_fraction": 0.25,
        "dense_tail_tokens": 0,
    },
}
"""Presets (docs/design.md, phases), as differences from the defaults. ``paper-4to1`` keeps a floor
of 4096 tokens (twice DSA's top-k of 2048), since a quarter of a short context could not hold the top-k."""
