"""Does stock DSA score the longest prefill chunk at once, or in pieces because memory is short?

In pieces it is slower, and pruning looks better than it is for a user whose server has the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sglang_hisa.config import parse
from sglang_hisa.launch.ab.plan import Cell
from sglang_hisa.launch.ab.record import Scoring
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.gpus import visible_gpus
from sglang_hisa.launch.common.provenance import output
from sglang_hisa.launch.common.receipts import Said
from sglang_hisa.patches import score_budget


@dataclass(frozen=True)
class Memory:
    """Bytes of a server's GPUs, of the one that has least of each; ``free`` None: not known.

    By nvidia-smi, not by torch: asking CUDA would take memory from the servers. Its total is under 1 % above
    torch's, so that pieces are counted too low rather than too high.
    """

    total: int
    free: int | None


def gpu_memory(info: Said, env: Mapping[str, str]) -> Memory | None:
    """Of the GPUs of a server by its ``/server_info``; None on a CPU, and where nvidia-smi does not say."""
    if info.get("device") != "cuda":
        return None
    first, step = info.get("base_gpu_id") or 0, info.get("gpu_id_step") or 1
    count = _ranks(info) * (1 if info.get("enable_dp_attention") else info.get("dp_size") or 1)
    if not (gpus := visible_gpus(env)[first : first + count * step : step]):
        return None
    query = ("--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits")
    said = output("nvidia-smi", f"--id={','.join(gpus)}", *query) or ""
    try:  # a part of a GPU (MIG) has no numbers here
        mib = [[int(number) for number in line.split(",")] for line in said.splitlines()]
        return Memory(*(min(column) << 20 for column in zip(*mib, strict=True)))
    except (TypeError, ValueError):
        return None


def _ranks(info: Said) -> int:
    return int((info.get("tp_size") or 1) * (info.get("pp_size") or 1))


def longest_chunk(cells: Sequence[Cell], chunk: int) -> tuple[int, int]:
    """Rows and context of the chunk with the most scores, of cells whose TTFT is shown; zeros without one.

    ``chunk``: ``--chunked-prefill-size``, 0 or less where prompts are not cut. Whole prompts that fit share
    a chunk, and stock DSA scores the rows of each over the tokens of all.
    """
    found = [(0, 0)]
    for cell in cells:
        if not cell.prefix_tokens:
            many = max(1, min(cell.concurrency, chunk // cell.input_tokens))
            context = many * cell.input_tokens
            found.append((min(chunk, context) if chunk > 0 else context, context))
    return max(found, key=lambda one: one[0] * one[1])


def of_arm(
    arm: Arm, cells: Sequence[Cell], info: Said, memory: Memory | None, env: Mapping[str, str], *, alone: bool
) -> Scoring | None:
    """What an arm's server, about to get its first load, makes of the longest chunk of ``cells``.

    Args:
        info: its ``/server_info``.
        memory: of its GPUs, now.
        env: its environment.
        alone: whether no other arm's server is on its GPUs.

    Returns:
        None where HISA serves prefill, no cell shows its TTFT, or the memory is not known.
    """
    if memory is None or (arm.setting is not None and parse(arm.setting).prefill.active):
        return None
    chunk = int(info.get("chunked_prefill_size") or 0)
    rows, context = longest_chunk(cells, chunk)
    if not rows:
        return None
    rule, fraction = score_budget.read(env), info.get("mem_fraction_static")
    allowed = rule.allowed(memory.total, fraction, memory.free)
    pieces = rule.pieces(rows, context, allowed)
    tokens = chunk if chunk > 0 else int(info.get("max_prefill_tokens") or 0)
    default = score_budget.default_fraction(memory.total, tokens, _ranks(info))
    usual = pieces
    if not alone or (fraction or 0) > default:
        usual = min(pieces, rule.pieces(rows, context, rule.allowed(memory.total, default)))
    return Scoring(
        rows=rows,
        context=context,
        needed_bytes=rule.needed(rows, context),
        allowed_bytes=allowed,
        free_bytes=memory.free if allowed < rule.allowed(memory.total, fraction) else None,
        mem_fraction_static=fraction,
        pieces=pieces,
        default_pieces=usual,
    )


def note(name: str, found: Scoring | None, *, together: bool) -> str | None:
    """That arm ``name`` scored in pieces, and what avoids it; None where it did not, or nothing is known."""
    if found is None or found.pieces == 1:
        return None
    crowded = found.free_bytes is not None and together
    why = f" at --mem-fraction-static {found.mem_fraction_static:g}" if found.mem_fraction_static else ""
    if found.free_bytes is not None:
        why = f" with {_gb(found.free_bytes)} of GPU memory free"
    needed, allowed = _gb(found.needed_bytes), _gb(found.allowed_bytes)
    said = (
        f"arm {name} scores prefill chunks of {found.rows:,} × {found.context:,} tokens in at least "
        f"{found.pieces} pieces: the scores take {needed}, and {allowed} are allowed{why}."
    )
    if found.default_pieces >= found.pieces:
        return f"{said} SGLang's default fraction would make about as many, alone on this GPU."
    usual = "one piece" if found.default_pieces == 1 else f"{found.default_pieces} pieces"
    ways = "a smaller --mem-fraction-static or --chunked-prefill-size"
    if crowded:
        ways = "a smaller --max-total-tokens or --chunked-prefill-size, or no --together"
    return (
        f"{said} Its TTFT is longer than with SGLang's default fraction and alone on this GPU "
        f"(about {usual}). What avoids it: {ways}."
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
