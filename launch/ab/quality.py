"""What pruning costs: next-token distributions and index choices of two arms on the same prompts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sglang_hisa.launch.ab.record import AbRecord, Answers
from sglang_hisa.launch.common import choices, fresh
from sglang_hisa.launch.common.server import ServerProcess

POSITIONS, TOP = 64, 20
"""Last prompt positions that are compared, and the tokens kept of each distribution."""
_LEAST = 1e-9

Prompt = str | list[int]
Distribution = dict[int, float]
"""Token id -> probability of the most likely ones."""


@dataclass(frozen=True)
class Shape:
    """The part of a model's config.json that is needed here."""

    vocab: int
    layers: int
    topk: int


@dataclass(frozen=True)
class Asked:
    """One answer: a distribution for each position, and the indexer's choices where the server has them."""

    prompt_tokens: int
    positions: list[Distribution]
    chosen: choices.Answer | None


def model_shape(model: str) -> Shape:
    """Read config.json of a folder or of a Hugging Face model.

    Raises:
        OSError: there is none.
    """
    from transformers.utils import cached_file

    found = cached_file(model, "config.json")
    assert found is not None
    text = json.loads(Path(found).read_text())
    text |= text.get("text_config") or {}
    return Shape(text["vocab_size"], text["num_hidden_layers"], text["index_topk"])


def make_prompts(lengths: Sequence[int], count: int, vocab: int, seed: int) -> list[Prompt]:
    """``count`` prompts of random token ids for each length, as the load generator's."""
    dice = random.Random(seed)
    return [[dice.randrange(vocab) for _ in range(n)] for n in sorted(set(lengths)) for _ in range(count)]


def read_prompts(path: Path) -> list[Prompt]:
    """A JSON string or ``{"text": ...}`` a line.

    Raises:
        OSError: not readable.
        ValueError: another form, or no prompt at all.
    """
    found: list[Prompt] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        given = json.loads(line) if line.strip() else ""
        text = given.get("text") if isinstance(given, dict) else given
        if not isinstance(text, str):
            raise ValueError(f'{path}, line {number}: expected a JSON string or {{"text": "..."}}')
        if text:
            found.append(text)
    if not found:
        raise ValueError(f"{path} contains no prompt")
    return found


def ask(
    server: ServerProcess, prompt: Prompt, shape: Shape, with_choices: bool, *, flush: bool = True
) -> Asked:
    """One request, with an empty cache unless ``flush`` is off.

    Raises:
        ValueError: the answer lacks what was asked for, or rests on a cache that a flush does not clear.
    """
    if flush:
        server.flush_cache()
    start = max(0, len(prompt) - POSITIONS) if isinstance(prompt, list) else 0
    more: dict[str, Any] = {"return_indexer_topk": True} if with_choices else {}
    answer = server.generate(
        prompt, 1, return_logprob=True, logprob_start_len=start, top_logprobs_num=TOP, **more
    )
    meta = answer["meta_info"]
    if flush and fresh.old([meta["cached_tokens"]]):
        # The baseline is asked twice, so that an empty storage is no help.
        came = f"{meta['cached_tokens']} of its tokens came from a cache; {fresh.KEPT}"
        raise ValueError(f"{came}: drop --hicache-storage-backend, or compare no answers (--quality 0)")
    rows = [row for row in [*meta["input_top_logprobs"], *meta["output_top_logprobs"]] if row]
    positions = [{int(token): math.exp(logprob) for logprob, token, *_ in row} for row in rows]
    chosen = None
    if with_choices:
        got = choices.decode(meta, shape.layers, shape.topk)
        ids = tuple(int(token) for token in answer["output_ids"])
        chosen = choices.Answer(meta["prompt_tokens"], meta["cached_tokens"], ids, 0.0, got)
    return Asked(meta["prompt_tokens"], positions[-POSITIONS:], chosen)


def divergence(p: Distribution, q: Distribution) -> float:
    """KL(p, q) in nats after all tokens that are not in both are put together: never above the true KL."""
    common = p.keys() & q.keys()
    pairs = [(p[token], q[token]) for token in common]
    pairs.append((1 - math.fsum(a for a, _ in pairs), 1 - math.fsum(b for _, b in pairs)))
    return math.fsum(a * math.log(a / max(b, _LEAST)) for a, b in pairs if a > _LEAST)


def compare(base: Asked, other: Asked, arm: str = "", prompt: int = 0) -> Answers:
    """KL over the positions, share of equal first tokens, overlap of the choices.

    Raises:
        ValueError: the two answers do not have the same positions.
    """
    if (base.prompt_tokens, len(base.positions)) != (other.prompt_tokens, len(other.positions)):
        raise ValueError("the two arms answered different prompts")
    pairs = list(zip(base.positions, other.positions))
    kl = [divergence(p, q) for p, q in pairs]
    same = [max(p, key=p.__getitem__) == max(q, key=q.__getitem__) for p, q in pairs]
    overlap = None
    if base.chosen is not None and other.chosen is not None:
        rows = choices.comparable_rows(base.chosen, other.chosen)
        if len(rows):
            shares = choices.shares(base.chosen, other.chosen, rows).mean(0)
            overlap = tuple(round(float(x), 4) for x in shares)
    return Answers(
        arm=arm,
        prompt=prompt,
        prompt_tokens=base.prompt_tokens,
        positions=len(kl),
        kl_mean=float(np.mean(kl)),
        kl_max=float(np.max(kl)),
        same_first=float(np.mean(same)),
        overlap=overlap,
    )


HEAD = ("arm", "prompt", "KL mean", "KL max", "same first token", "indexer overlap (lowest layer)")


def table(record: AbRecord) -> list[tuple[str, ...]]:
    """A row for each arm and prompt under ``HEAD``; the baseline's is its own run-to-run difference."""
    rows: list[tuple[str, ...]] = []
    for one in record.quality:
        mean = "–" if one.overlap is None else f"{np.mean(one.overlap):.3f} ({min(one.overlap):.3f})"
        again = " again" if one.arm == record.plan.baseline else ""
        rows.append(
            (
                one.arm + again,
                f"{one.prompt_tokens:,} tokens",
                f"{one.kl_mean:.2e}",
                f"{one.kl_max:.2e}",
                f"{one.same_first:.0%} of {one.positions}",
                mean,
            )
        )
    return rows
