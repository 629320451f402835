"""Divergence of two arms on the same prompts."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy

from sglang_hisa.launch.ab import formatting, plan, quality
from sglang_hisa.launch.ab.runner import Runner
from sglang_hisa.launch.common.arms import parse_arms
from sglang_hisa.launch.common.logs import retractions
from sglang_hisa.launch.common.server import ServerFailed


def top(weights: np.ndarray, kept: int) -> quality.Distribution:
    order = np.argsort(weights)[::-1][:kept]
    return {int(token): float(weights[token]) for token in order}


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(seed)
    return dice.dirichlet(np.full(50, 0.3)), dice.dirichlet(np.full(50, 0.3))


def test_divergence_with_every_token_is_the_kl():
    p, q = pair(1)
    assert quality.divergence(top(p, 50), top(q, 50)) == pytest.approx(entropy(p, q), rel=1e-6)


@pytest.mark.parametrize("kept", [1, 7, 20, 49])
def test_divergence_of_the_likeliest_tokens_is_a_lower_bound(kept: int):
    for seed in range(20):
        p, q = pair(seed)
        found = quality.divergence(top(p, kept), top(q, kept))
        assert -1e-9 <= found <= entropy(p, q) + 1e-9
    assert quality.divergence(top(p, kept), top(p, kept)) == pytest.approx(0, abs=1e-9)


def test_compare_needs_the_same_prompt():
    one = quality.Asked(9, [{1: 0.9, 2: 0.1}, {3: 1.0}], None)
    other = quality.Asked(9, [{1: 0.2, 2: 0.8}, {3: 1.0}], None)
    found = quality.compare(one, other)
    assert found.same_first == 0.5 and found.overlap is None
    assert found.kl_max == pytest.approx(entropy([0.9, 0.1], [0.2, 0.8]))
    assert found.kl_mean == pytest.approx(found.kl_max / 2)
    with pytest.raises(ValueError, match="different prompts"):
        quality.compare(one, quality.Asked(8, other.positions, None))


def test_prompts(tmp_path: Path):
    made = quality.make_prompts([70, 5, 70], 2, 300, 1)
    assert [len(prompt) for prompt in made] == [5, 5, 70, 70]
    assert made[0] != made[1] and all(0 <= token < 300 for prompt in made for token in prompt)
    assert made == quality.make_prompts([5, 70], 2, 300, 1)
    file = tmp_path / "prompts.jsonl"
    file.write_text('"one"\n\n{"text": "two"}\n')
    assert quality.read_prompts(file) == ["one", "two"]
    for wrong in ("[1]", '{"prompt": "x"}', "not JSON", "\n"):
        file.write_text(wrong)
        with pytest.raises(ValueError):
            quality.read_prompts(file)


def test_retractions_are_counted_from_the_log(tmp_path: Path):
    log = tmp_path / "server.log"
    log.write_text("start\n[x] KV cache pool is full. Retract requests. #retracted_reqs: 3, #new: 1\nend\n")
    assert retractions(log) == 3


class Server:
    """Answers, refuses or is dead, as told."""

    def __init__(self, answers, code=None):
        self.answers, self.code = list(answers), code

    def exit_code(self):
        return self.code

    def tail(self):
        return "last words"


@pytest.fixture
def runner(tmp_path: Path, monkeypatch):
    def ask(server, prompt, shape, with_choices):
        answer = server.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(quality, "ask", ask)
    monkeypatch.setattr(quality, "model_shape", lambda model: quality.Shape(300, 2, 64))
    arms = parse_arms("stock,paper")
    wanted = plan.Plan(arms, plan.parse_cells("100:1", 4, 1), 3, True, 1, 100, 0.05)
    return Runner(
        plan=wanted,
        model="m",
        flags=[],
        make_env=lambda setting: {},
        folder=tmp_path,
        save=lambda record: None,
        tell=lambda line: None,
        prompts=["one", "two"],
    )


def test_a_prompt_that_is_refused_is_noted_and_the_rest_goes_on(runner):
    good = quality.Asked(9, [{1: 0.9, 2: 0.1}], None)
    stock, paper = runner.plan.arms
    runner._compare(stock, Server([OSError("HTTP Error 400"), good, good]))
    runner._compare(paper, Server([good]))
    assert [(one.arm, one.prompt) for one in runner.record.quality] == [("stock", 1), ("paper", 1)]
    assert runner.record.quality_problems == ("arm stock, prompt 1: HTTP Error 400",)
    assert formatting.notes(runner.record)[0] == "answers not compared: arm stock, prompt 1: HTTP Error 400"


def test_a_server_that_dies_over_a_prompt_is_reported_as_dead(runner):
    stock = runner.plan.arms[0]
    with pytest.raises(
        ServerFailed, match=r"arm stock: the server was killed from outside by SIGKILL; .*reset"
    ):
        runner._compare(stock, Server([ConnectionResetError("reset")], code=-9))
    assert runner.record.arms["stock"].log_tail == "last words"
