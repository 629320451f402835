"""Prompts of the user's own: JSON lines as in the ``custom`` data sets of SGLang and vLLM."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """One request; ``output_tokens`` of its answer, None: as long as the command says."""

    text: str
    output_tokens: int | None


def _of(row: Any) -> Prompt | None:
    """One line: vLLM's ``{"prompt", "output_tokens"}``, or the first turn of SGLang's conversation."""
    if isinstance(row, str):
        row = {"prompt": row}
    if not isinstance(row, dict):
        return None
    turns = row.get("conversations", row.get("conversation"))
    if isinstance(turns, list) and turns and isinstance(turns[0], dict):
        row = {"prompt": turns[0].get("content", turns[0].get("value"))}
    text, tokens = row.get("prompt"), row.get("output_tokens")
    if not (isinstance(text, str) and text) or not (tokens is None or (type(tokens) is int and tokens > 0)):
        return None
    return Prompt(text, tokens)


def read(path: Path) -> tuple[Prompt, ...]:
    """Every prompt of the file, in its order; empty lines are left out.

    Raises:
        OSError: not readable.
        ValueError: a line of another form, or no prompt at all.
    """
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            prompt = _of(json.loads(line))
        except json.JSONDecodeError:
            prompt = None
        if prompt is None:
            raise ValueError(
                f'{path}, line {number}: expected {{"prompt": "...", "output_tokens": N}} (vLLM; '
                'output_tokens may be left out), {"conversations": [{"content": "..."}, ...]} (SGLang), or '
                "a string"
            )
        found.append(prompt)
    if not found:
        raise ValueError(f"{path} contains no prompt")
    return tuple(found)


def for_generator(
    prompts: tuple[Prompt, ...], count: int, output_tokens: int, first: int
) -> list[tuple[str, int]]:
    """``count`` texts and lengths of their answers, from number ``first`` on; after the last the first."""
    chosen = (prompts[(first + number) % len(prompts)] for number in range(count))
    return [(prompt.text, prompt.output_tokens or output_tokens) for prompt in chosen]
