"""A load from a file of prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_hisa.launch.load import plan, prompts
from sglang_hisa.launch.load.prompts import Prompt
from sglang_hisa.launch.load.record import KeptWorkload

LINES = [
    json.dumps({"prompt": "What is DSA?", "output_tokens": 50}),
    "",
    json.dumps({"prompt": "Ä long one"}),
    json.dumps({"conversations": [{"content": "Hi"}, {"content": "Hello, you"}]}),
    json.dumps({"conversation": [{"from": "human", "value": "Hey"}, {"from": "gpt", "value": "x"}]}),
    json.dumps("plain"),
]
WANTED = (Prompt("What is DSA?", 50), *(Prompt(text, None) for text in ("Ä long one", "Hi", "Hey", "plain")))


def test_the_formats_of_vllm_and_sglang_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(LINES))
    assert prompts.read(file) == WANTED
    for wrong in (
        "{",
        "3",
        "{}",
        '{"prompt": ""}',
        '{"prompt": "a", "output_tokens": 0}',
        '{"conversations": []}',
    ):
        file.write_text(f"{LINES[0]}\n{wrong}\n")
        with pytest.raises(ValueError, match="line 2: expected"):
            prompts.read(file)
    file.write_text("\n\n")
    with pytest.raises(ValueError, match="contains no prompt"):
        prompts.read(file)


def test_each_load_goes_on_where_the_one_before_ended() -> None:
    first = prompts.for_generator(WANTED, 3, 100, 0)
    assert first == [("What is DSA?", 50), ("Ä long one", 100), ("Hi", 100)]
    assert [text for text, _ in prompts.for_generator(WANTED, 4, 100, 3)] == [
        "Hey",
        "plain",
        "What is DSA?",
        "Ä long one",
    ]


def test_a_record_says_which_prompts_without_them() -> None:
    work = plan.Workload("file", 0, 100, prompts=WANTED)
    kept = KeptWorkload.of(work)
    assert kept.prompts == 5 and len(kept.sha256 or "") == 64 and "DSA" not in str(kept)
    assert KeptWorkload.of(plan.Workload("file", 0, 100, prompts=WANTED[1:])).sha256 != kept.sha256
    with pytest.raises(ValueError, match="needs at least one prompt"):
        plan.Workload("file", 0, 100)
