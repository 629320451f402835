"""What the offline tables read of a trained model: of either language, rows that predict the answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sglang_hisa.launch.common.record import load
from sglang_hisa.launch.eval.heads_record import HeadsRecord
from sglang_hisa.launch.research import head_mass, recall_heads, rows
from sglang_hisa.launch.research.train.course import Course
from sglang_hisa.launch.research.train.export import export
from sglang_hisa.launch.research.train.model import Model
from sglang_hisa.launch.research.train.prose.course import PROSE
from sglang_hisa.launch.research.train.records import RECORDS
from tests.launch.eval.reader import answer_to


@pytest.fixture(scope="module", params=[RECORDS, PROSE], ids=["records", "prose"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, of a smaller shape than the course's."""
    course: Course = request.param
    torch.manual_seed(4)
    made = export(
        Model(replace(course.shape, hidden=64, layers=2, mlp=48, index_heads=8)), tmp_path_factory.mktemp("m")
    )
    course.write(made)
    return made


def test_rows_are_those_that_predict_the_answer(folder: Path) -> None:
    trained = rows.load(folder)
    sample = trained.prompts(["tracking"], 700, 1, 3)[2]
    first, tokens = sample.context - 1, trained.tokens(sample.prompt + sample.answer)
    assert trained.tokenizer.decode(tokens[first + 1 :]) == sample.answer
    for (query, weights, key), (own, gates, before) in zip(
        rows.projections(trained, sample), rows.layers_of(trained, sample)
    ):
        assert len(query) == len(key) == len(tokens) and query.shape[1] == 8
        assert len(own) == len(gates) == len(tokens) - first - 1 and len(before) == first
        assert torch.equal(gates, weights[first:-1])
        ((kind, counted, place), _) = recall_heads.places((query, weights, key), sample, 100)
        assert kind == "answer" and torch.equal(place.parts[1][counted], gates)
    assert trained.model.shape.vocab == trained.tokenizer.get_vocab_size()
    if trained.family.name == "prose":
        text, what, question = sample.prompt.rpartition(" What ")
        assert sample.answer == answer_to(text, what + question)


def test_tables_of_either_model(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(folder), "--out", str(tmp_path / "r.json"), "--topk", "128", "--tasks", "needle"]
    assert recall_heads.main([*given, "--contexts", "640"]) == 0
    kept = load(tmp_path / "r.json", HeadsRecord)
    assert (kept.heads, kept.tasks, kept.contexts) == (8, ("needle",), (640,)) and kept.provenance.python
    assert {(row.context, row.layer) for row in kept.rows} == {(640, 0), (640, 1)}
    assert all(0 < row.recall <= 1 and row.places for row in kept.rows)
    assert head_mass.main([str(folder), *given, "--context", "640"]) == 0
    found = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert len(found) == 2 * 2 * 2 * 4 and {row["model"] for row in found} == {folder.name}
    assert all(0 < row["routed"] <= row["most"] + 1e-6 <= 1 + 2e-6 for row in found)
    with pytest.raises(SystemExit):
        head_mass.main([*given, "nope"])
    assert "unknown task nope" in capsys.readouterr().err
