"""The trained models that this checkout keeps answer questions: a folder with any other weights would not."""

from pathlib import Path

import pytest
import torch

from sglang_hisa.launch.research import rows

KEPT = Path(__file__).parents[3] / "launch" / "research"


@pytest.mark.parametrize("name", ["retriever", "prose"])
def test_a_kept_model_finds_what_it_is_asked_for(name: str) -> None:
    """Each token of the answer, from the tokens before it, wherever the needle is."""
    trained = rows.load(KEPT / name)
    right = []
    for sample in trained.prompts(["needle", "multikey-1"], 600, 1, 5):
        tokens = trained.tokens(sample.prompt + sample.answer)
        first = len(trained.tokens(sample.prompt))
        with torch.no_grad():
            states = trained.model.hidden(torch.tensor([tokens]), None)
            said = trained.model.lm_head(states[0, first - 1 : -1]).argmax(dim=-1)
        right.append(said.tolist() == tokens[first:])
    assert sum(right) >= len(right) - 1, f"{sum(right)} of {len(right)} answers"
