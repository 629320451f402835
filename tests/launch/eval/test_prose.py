"""Questions in sentences: prompts of their length, answers of an independent reader, the model's own kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.cli import main
from sglang_hisa.launch.eval import families, prose, report, tasks
from sglang_hisa.launch.research.train.prose.course import PROSE
from tests.launch.ab.json_server import serving
from tests.launch.eval.reader import FACT, answer_to


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the training puts beside the weights."""
    made = tmp_path_factory.mktemp("prose")
    PROSE.write(made)
    return made


@pytest.fixture(scope="module")
def language(folder: Path) -> prose.Prose:
    return prose.Prose(folder)


def parts(prompt: str) -> tuple[str, str]:
    """The text, and the question."""
    text, what, question = prompt.rpartition(" What ")
    return text, what + question


@pytest.mark.parametrize("task", prose.TASKS)
def test_prompts_have_their_length_and_answer(task: str, folder: Path, language: prose.Prose) -> None:
    for context in (513, 3001):
        for depth in tasks.DEPTHS:
            sample = language.make(task, context, depth, 7)
            text, question = parts(sample.prompt)
            assert language.tokens(sample.prompt) == context
            assert sample.answer == answer_to(text, question)
            assert language.tokens(sample.prompt + sample.answer) == context + language.tokens(sample.answer)
            assert len(sample.answer) < families.of_model(folder).room
            if task != "tracking":
                name = re.search(r"number for (\w+ \w+) is$", question)
                assert name
                place = text.index(f"{FACT}{name[1]} is") / len(text)
                assert abs(place - depth) < 500 / len(text)
            assert sample == language.make(task, context, depth, 7) != language.make(task, context, depth, 8)


def test_distractors_are_what_the_task_says(language: prose.Prose) -> None:
    text = {task: parts(language.make(task, 2048, 0.5, 1).prompt)[0] for task in prose.TASKS}
    facts = {task: len(re.findall(r"is \d{6}\.", said)) for task, said in text.items()}
    assert facts["needle"] == 1 and facts["tracking"] == 4
    assert all(facts[task] == 4 for task in ("multikey-1", "multivalue", "multiquery"))
    assert facts["multikey-2"] > 150 and facts["multikey-3"] > 150
    assert text["tracking"].count("is that for") == 12
    near = language.make("multikey-3", 2048, 0.5, 1).prompt
    one, two = near.split()[-3:-1]
    keys = {tuple(key.split()) for key in re.findall(rf"{FACT}(\w+ \w+) is", near)}
    assert sum((a == one) != (b == two) for a, b in keys) >= 10


@pytest.mark.parametrize(("task", "context"), [("nope", 512), ("tracking", 150)])
def test_impossible_prompts_are_refused(task: str, context: int, language: prose.Prose) -> None:
    with pytest.raises(ValueError, match=r"allowed|too short"):
        language.make(task, context, 0.5, 1)


def test_a_model_is_asked_in_its_own_language(folder: Path, tmp_path: Path) -> None:
    """By its folder, which a server names as its model; ``--tasks`` are those of the language."""

    def answer(path: str, given: dict[str, Any] | None) -> dict[str, Any]:
        if given is None:
            return {"data": [{"id": str(folder)}]}
        out = answer_to(*parts(given["prompt"]))
        return {"choices": [{"text": out}], "usage": {"prompt_tokens": len(given["prompt"].split())}}

    with serving(answer) as url:
        words = ["eval", url, "--contexts", "512", "--samples", "1", "--out", str(tmp_path / "out")]
        assert main(words) == 0
        with pytest.raises(SystemExit):
            main([*words[:3], "256", "--samples", "1"])
    record = report.load(tmp_path / "out")
    assert record.plan.tasks == prose.TASKS and record.plan.family == "prose"
    assert [row.accuracy for row in record.rows] == [1.0] * len(prose.TASKS)
    assert families.of_model(tmp_path) is families.RECORDS is families.of_model("some/model")
