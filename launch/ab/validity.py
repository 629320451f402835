"""Reasons not to believe an A/B: a record that has one gets no verdict."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_hisa import PAGE
from sglang_hisa.launch.ab.plan import Cell
from sglang_hisa.launch.ab.record import AbRecord, ArmFacts, Measurement
from sglang_hisa.launch.common import fresh, receipts
from sglang_hisa.launch.common.server import ServerFailed, ServerProcess

_OWN = frozenset(
    (
        *("port", "nccl_port", "startup_time", "internal_states", "status", "kv_events"),
        *("mem_fraction_static", "max_total_num_tokens", "max_req_input_len"),
        "launch_command",  # 0.5.23: names the port; what it sets is compared field by field
        "random_seed",  # drawn at each start unless given; the load asks for greedy answers
    )
)
"""Fields of ``/server_info`` that may differ between arms: names of one server, and the size of its pool,
which summaries make smaller (reported as memory)."""


def arm_problems(name: str, setting: str | None, found: list[receipts.Said | None]) -> list[str]:
    """An arm must serve what its name says, on every scheduler."""
    problem = receipts.problem(receipts.typed(found), hisa=setting is not None)
    return [f"arm {name}: {problem}"] if problem else []


def require_arm(name: str, setting: str | None, server: ServerProcess) -> None:
    """Raises ``ServerFailed`` where a server that is up does not serve what its name says."""
    if wrong := arm_problems(name, setting, server.receipts()):
        raise ServerFailed("; ".join(wrong))


def flag_problems(baseline: receipts.Said, other: receipts.Said, name: str) -> list[str]:
    """``/server_info`` of two arms may differ only where a server must."""
    found = []
    for key in sorted((baseline.keys() | other.keys()) - _OWN):
        left, right = baseline.get(key), other.get(key)
        if left != right:
            found.append(f"arm {name}: {key} is {right!r}, the baseline's is {left!r}")
    return found


def pool_problems(name: str, facts: ArmFacts, cells: Sequence[Cell]) -> list[str]:
    """A KV pool must hold every request of a cell with a shared prefix: else they would not all decode."""
    need = max((cell.pool_tokens for cell in cells if cell.prefix_tokens), default=0)
    have = facts.kv_tokens or need
    if have >= need:
        return []
    return [
        f"arm {name}: its KV cache holds {have:,} tokens, a cell needs {need:,} at once: fewer requests, "
        "shorter --output-tokens, or more memory (--max-total-tokens, --mem-fraction-static)"
    ]


def _where(one: Measurement, cell: Cell) -> str:
    return f"arm {one.arm}, round {one.round}, {cell.input_tokens} tokens x {cell.concurrency}"


def old_prompts(one: Measurement, cell: Cell) -> list[str]:
    """Every prompt of a measurement must be new to every cache of its server, but for its shared prefix."""
    found = fresh.old([None if tokens is None else tokens - cell.prefix_tokens for tokens in one.cached])
    return [fresh.was_old(found, one.requests, _where(one, cell))] if found else []


def recomputed(flags: Sequence[str]) -> int:
    """Tokens at the end of a shared prefix that a server with these flags computes for each request: with
    drafts the cache's keys are pairs of tokens, and the last one's pair is no longer shared."""
    return PAGE if any(flag.startswith("--speculative-algorithm") for flag in flags) else 0


def prefix_problems(one: Measurement, cell: Cell, without: int = 0) -> list[str]:
    """A shared prefix, ``without`` what :func:`recomputed` says, must come from the radix cache, and must
    have got there by this cell's own warm-up."""
    prefix = cell.prefix_tokens
    if not prefix:
        return []
    where, found = _where(one, cell), []
    short = [tokens for tokens in one.cached if tokens is None or tokens < prefix - without]
    if short and not one.errors:
        least = min(tokens or 0 for tokens in short)
        found.append(
            f"{where}: {len(short)} of {one.requests} prompts did not find the shared prefix of {prefix} "
            f"tokens in the radix cache (one found {least} tokens): give a larger --max-total-tokens, and no "
            "--disable-radix-cache"
        )
    warm = one.warmup_cached or 0
    if fresh.old([warm - (one.known_prefix or 0)]):
        found.append(fresh.was_old([warm], 1, f"{where}, the shared prefix"))
    return found


def load_problems(record: AbRecord) -> list[str]:
    """Errors, output lengths and cache hits of the measurements."""
    found = []
    for one in record.measurements:
        cell = record.plan.cells[one.cell]
        where = _where(one, cell)
        if one.completed != one.requests:
            reason = one.errors[0] if one.errors else "no reason given"
            found.append(f"{where}: {one.requests - one.completed} requests failed ({reason})")
        elif len([t for t in one.ttft_s if t > 0]) != one.requests:
            found.append(f"{where}: answers without a first token (ids that the tokenizer has no text for?)")
        elif set(one.input_lens) != {cell.input_tokens}:
            found.append(f"{where}: prompts of {sorted(set(one.input_lens))} tokens, not {cell.input_tokens}")
        elif set(one.output_lens) != {cell.output_tokens}:
            found.append(
                f"{where}: answers of {sorted(set(one.output_lens))} tokens, not {cell.output_tokens}"
            )
        found += old_prompts(one, cell) + prefix_problems(one, cell, recomputed(record.flags))
    return found
