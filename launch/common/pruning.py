"""Did an arm prune at all? From the rows that HISA's receipts count, and the heads that scored them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_hisa.launch.common.server import fetch

Rows = Sequence[Mapping[str, Any]]
"""``rows`` of the receipt of each scheduler (:meth:`sglang_hisa.counts.RowCounts.report`), with
the ``prefill_heads`` of its settings."""
PHASES = ("prefill", "decode")
_COUNTS = ("rows", "context_tokens", "candidate_tokens")


def of_receipts(receipts: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any]] | None:
    """The rows of each receipt; None where there is no receipt, or one that counts nothing."""
    found = [_with_heads(receipt) for receipt in receipts if receipt and receipt.get("rows")]
    return found or None


def _with_heads(receipt: Mapping[str, Any]) -> dict[str, Any]:
    return {**receipt["rows"], "prefill_heads": receipt.get("config", {}).get("prefill_heads", 1.0)}


def of_server(url: str) -> list[dict[str, Any]] | None:
    """The rows of a running server; None of one that has no receipt or does not answer."""
    try:
        states = json.loads(fetch(f"{url}/server_info", timeout=20))["internal_states"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return of_receipts([state.get("sglang_hisa") for state in states])


def since(before: Rows | None, after: Rows | None) -> list[dict[str, Any]] | None:
    """What came to the counts between two looks at one server."""
    if after is None:
        return None
    old = before or [{}] * len(after)

    def grown(first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
        counts = {
            phase: {key: last[phase][key] - first.get(phase, {}).get(key, 0) for key in _COUNTS}
            for phase in PHASES
        }
        return {**counts, "prefill_heads": last.get("prefill_heads", 1.0)}

    return [grown(first, last) for first, last in zip(old, after)]


def shares(rows: Rows | None) -> dict[str, float]:
    """By phase, the share of their context that the rows served by HISA scored, where it is not all of it."""
    found = {}
    for phase in PHASES:
        seen, scored = (
            sum(one[phase][key] for one in rows or ()) for key in ("context_tokens", "candidate_tokens")
        )
        if scored < seen:
            found[phase] = scored / seen
    return found


def heads(rows: Rows | None) -> float | None:
    """The share of the index heads that scored prefill rows beyond ``prefill_tokens``; None where all did.

    HISA serves a prefill step only if one of its rows leaves out tokens or heads, so that counted rows which
    left out no token were scored by fewer heads.
    """
    found = (one.get("prefill_heads", 1.0) for one in rows or () if one["prefill"]["context_tokens"])
    return min((share for share in found if share < 1), default=None)


def note(who: str, rows: Rows | None) -> str | None:
    """That ``who`` pruned nothing, or heads alone; None where it left out tokens or no receipt is known."""
    if not rows or shares(rows):
        return None
    if share := heads(rows):
        return (
            f"{who} left out no tokens, but scored its prefill rows beyond prefill_tokens by {share:g} of "
            "the index heads"
        )
    return f"{who} pruned nothing: its rows fit their budgets or were left to stock DSA"
