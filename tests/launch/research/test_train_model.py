"""The trained model in PyTorch: what learns from what, resuming, and that it learns at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_hisa.launch.research.train import attention, session
from sglang_hisa.launch.research.train import trainer as trainer_module
from sglang_hisa.launch.research.train.__main__ import main as train_main
from sglang_hisa.launch.research.train.course import Course
from sglang_hisa.launch.research.train.model import Model
from sglang_hisa.launch.research.train.recipe import DENSE, INDEX, SPARSE, Stage
from sglang_hisa.launch.research.train.records import RECORDS
from sglang_hisa.launch.research.train.shape import Shape
from sglang_hisa.launch.research.train.stages import answer_loss
from sglang_hisa.launch.research.train.trainer import Trainer

SMALL = Shape(
    hidden=64,
    layers=2,
    heads=2,
    mlp=64,
    q_rank=32,
    kv_rank=64,
    head_dim=32,
    rope_dim=16,
    index_heads=24,
    index_dim=32,
    train_topk=37,
)


def course(*stages: Stage) -> Course:
    """The records' course, of small shape."""
    return replace(RECORDS, shape=SMALL, recipe=stages or RECORDS.recipe)


def model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(SMALL)


def tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 259, (rows, length), generator=torch.Generator().manual_seed(length))


def test_sparse_equals_attention_over_the_chosen_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row, with a plain softmax over the tokens that sorted index scores name."""
    monkeypatch.setattr(attention, "ROWS", 50)  # several groups of rows, the last one ragged
    part = model().model.layers[0].self_attn
    x = torch.randn(2, 113, SMALL.hidden)
    turns = attention.angles(113, SMALL.rope_dim, SMALL.rope_theta, x.device)
    out = part(x, turns, 37)
    query, key, value, latent = part.project(x, turns)
    index_query, index_key, gates = part.indexer(x, latent, turns)
    for row, t in ((0, 3), (0, 60), (1, 112)):
        scores = torch.stack(
            [(index_query[row, t] @ index_key[row, s]).relu() @ gates[row, t] for s in range(t + 1)]
        )
        kept = scores.sort(descending=True).indices[:37]
        heads = []
        for head in range(SMALL.heads):
            dots = key[row, head, kept] @ query[row, head, t] * part.scale
            heads.append(dots.softmax(dim=0) @ value[row, head, kept])
        torch.testing.assert_close(out[row, t], part.o_proj(torch.cat(heads)), atol=1e-5, rtol=1e-4)


def test_no_token_sees_the_future() -> None:
    trained, text = model(), tokens(1, 90)
    changed = text.clone()
    changed[:, 70:] = 5
    for topk in (None, 37):
        before, after = trained(text, topk), trained(changed, topk)
        torch.testing.assert_close(before[:, :70], after[:, :70])
        assert (before[:, 70:] - after[:, 70:]).abs().max() > 1e-3


def test_a_model_that_copies_begins_with_every_token_predicting_itself() -> None:
    torch.manual_seed(0)
    fresh = Model(replace(SMALL, copies=True))
    embeddings = fresh.model.embed_tokens.weight.detach()
    assert float(embeddings.std()) == pytest.approx(0.5, rel=0.02)
    own = torch.arange(len(embeddings))
    assert (fresh.lm_head(fresh.model.norm(embeddings)).argmax(dim=-1) == own).all()
    plain = model()
    assert (plain.lm_head(plain.model.embed_tokens.weight).argmax(dim=-1) == own).float().mean() < 0.1


def test_the_index_loss_trains_indexers_alone() -> None:
    trained, text = model(), tokens(2, 65)
    rows = torch.tensor([[0, 13, 64], [1, 40, 63]])
    loss = trained.index_loss(text, rows, None)
    loss.backward()
    learning = {
        name for name, p in trained.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert learning and all(".indexer." in name for name in learning)
    assert {name.split(".")[2] for name in learning} == {"0", "1"}
    # The target is a distribution over the past.
    layer = trained.model.layers[0]
    x = layer.input_layernorm(trained.model.embed_tokens(text))
    _, target, seen = layer.self_attn.row_targets(x, trained.turns(65), rows)
    assert torch.equal(seen.sum(dim=-1), rows + 1)
    torch.testing.assert_close(target.sum(dim=-1), torch.ones(2, 3))
    assert (target[~seen] == 0).all() and loss > 0


def test_a_batch_without_answers_has_no_loss() -> None:
    """The mean over no token is not a number, and one such step would end a training."""
    trained, text = model(), tokens(2, 65)
    marks = torch.zeros_like(text, dtype=torch.bool)
    loss, right = answer_loss(trained, text, marks, marks, None)
    assert loss.item() == right.item() == 0
    marks[1, [7, 64]] = True
    loss, right = answer_loss(trained, text, marks, marks, None)
    logits = trained.lm_head(trained.hidden(text, None)[1, [6, 63]])
    expected = -logits.log_softmax(dim=-1)[[0, 1], text[1, [7, 64]]].mean()
    torch.testing.assert_close(loss, expected)
    assert right.item() in (0, 0.5, 1)


def test_a_resumed_run_goes_on_as_the_first_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "PATIENCE", float("inf"))  # looks after equal steps, however slow
    recipe = (Stage(DENSE, 64, 256, 1e-3, 1), Stage(INDEX, 64, 256, 1e-3, 1), Stage(SPARSE, 90, 256, 1e-3, 1))

    def trainer(folder: Path) -> Trainer:
        return Trainer(folder, course=course(*recipe), seconds=1e9, device="cpu", seed=3, tell=lines.append)

    def advance(one: Trainer, looks: int) -> None:
        for _ in range(looks):
            one._steps()

    lines: list[str] = []
    for stage in range(3):
        whole, half = trainer(tmp_path / "a"), trainer(tmp_path / "b")
        for one in (whole, half):
            one.state.stage = stage
            one.optimiser = one._optimiser()
        advance(whole, 2)
        advance(half, 1)
        half.save()
        again = trainer(tmp_path / "b")
        again.resume()
        assert again.state == half.state
        advance(again, 1)
        assert again.state.steps == whole.state.steps == 20
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[name]), name
    assert any(line.startswith("sparse 90: step 20") for line in lines)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    made = dict(seconds=1.0, device="cpu", tell=lambda line: None)
    with pytest.raises(FileNotFoundError):
        Trainer(tmp_path, course=course(), **made).resume()
    Trainer(tmp_path, course=course(), **made).save()
    with pytest.raises(ValueError, match="another shape"):
        Trainer(tmp_path, course=replace(RECORDS, shape=Shape(hidden=128)), **made).resume()


class Clock:
    """The trainer's time: ``seconds`` a step, however fast the machine is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.now, step = 1000.0, trainer_module.step

        def timed(*given: Any) -> Any:
            self.now += seconds
            return step(*given)

        monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(trainer_module, "step", timed)


def test_stages_end_by_time_and_the_indexer_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of the indexer stage halves its divergence; time saved is passed on."""
    Clock(monkeypatch, 0.1)
    recipe = (Stage(DENSE, 64, 512, 1e-3, 1, goal=0.0), Stage(INDEX, 96, 512, 3e-3, 1))
    losses: list[float] = []

    def tell(line: str) -> None:
        if line.startswith("index"):
            losses.append(float(line.split("loss ")[1].split(",")[0]))

    trainer = Trainer(tmp_path, course=course(*recipe), seconds=8, device="cpu", tell=tell)
    assert trainer.run(100) and trainer.done
    dense, index = trainer.log
    assert dense["steps"] == 30 and index["left"] == pytest.approx(8 - dense["seconds"])
    assert index["seconds"] >= index["left"]
    assert losses[-1] < losses[0] / 2


def test_a_call_with_time_for_all_ends_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving takes time that no stage counts; a call that has less time than the recipe leaves the rest."""
    monkeypatch.setattr(trainer_module, "SAVE_EVERY", 0.0)
    clock = Clock(monkeypatch, 0.02)

    def save(self: Trainer) -> None:
        clock.now += 0.3

    monkeypatch.setattr(Trainer, "save", save)
    recipe = (Stage(DENSE, 64, 128, 1e-3, 1),)

    def trainer() -> Trainer:
        return Trainer(tmp_path, course=course(*recipe), seconds=2, device="cpu", tell=lambda _: None)

    short, whole = trainer(), trainer()
    assert not short.run(1) and short.log == []
    assert whole.run(2) and whole.log[0]["seconds"] < 2


def test_steps_of_fewer_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Course] = []
    monkeypatch.setattr(session, "train", lambda out, *, course, **_: given.append(course))
    for words in ([], ["--step-tokens", "40000"]):
        assert train_main([str(tmp_path), "--device", "cpu", *words]) == 0
    assert [stage.tokens for stage in given[0].recipe] == [stage.tokens for stage in RECORDS.recipe]
    assert {stage.tokens for stage in given[1].recipe} == {32768, 40000}
    with pytest.raises(SystemExit):
        train_main([str(tmp_path), "--device", "cpu", "--step-tokens", "0"])


def test_a_model_of_another_shape_is_trained_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {"layers": 1, "hidden": 64, "mlp": 32, "q_rank": 16, "heads": 1, "index_heads": 2}
    words = [str(tmp_path), "--device", "cpu", "--minutes", "0.001", "--shape"]
    assert train_main([*words, *(f"{key}={value}" for key, value in wanted.items())]) == 0
    found = vars(Shape.of(json.loads((tmp_path / "config.json").read_text())))
    assert {key: found[key] for key in wanted} == wanted
    for wrong in ("depth=3", "layers", "layers=x", "layers=0"):
        with pytest.raises(SystemExit):
            train_main([*words, wrong])
        assert "KEY one of hidden, layers" in capsys.readouterr().err
