"""How long an A/B takes, before and while it runs."""

import itertools

import pytest

from sglang_hisa.launch.ab import estimate, plan
from sglang_hisa.launch.ab.estimate import PROMPT_TOK_S, SENT_S, START_S, TOKEN_S
from sglang_hisa.launch.common.arms import parse_arms


def make(cells: str, rounds: int, together: bool, arms: str = "stock,paper") -> plan.Plan:
    return plan.Plan(parse_arms(arms), plan.parse_cells(cells, 100, 1), rounds, together, 1, 1 << 20, 0.05)


def every(given: plan.Plan) -> list[tuple[int, int, str]]:
    arms = [arm.name for arm in given.arms]
    return list(itertools.product(range(given.rounds), range(len(given.cells)), arms))


def test_a_shared_prefix_is_read_once_a_start_and_the_longest_alone() -> None:
    given = make("128k+64:1,3 32k+64:1", 2, True)
    found = estimate.work(given, every(given))
    assert (found.starts, found.measurements) == (2, 12)
    assert found.prompt_tokens == 2 * (128 * 1024 + 2 * (1 + 3 + 1) * 64)
    tokens = 2 * 2 * (100 + 102 + 100) + 2 * 3 * plan.WARMUP_OUTPUT
    sent = 2 * 2 * SENT_S * ((128 * 1024 + 64) * 4 + 32 * 1024 + 64) / (128 * 1024)
    wanted = START_S + found.prompt_tokens / PROMPT_TOK_S + tokens * TOKEN_S + sent
    assert found.seconds == pytest.approx(wanted)
    up = estimate.work(given, every(given), running=True)
    assert (up.starts, up.seconds) == (0, pytest.approx(wanted - START_S))


def test_servers_of_their_own_start_one_after_another() -> None:
    given = make("8k:1", 3, False)
    found = estimate.work(given, every(given))
    assert found.starts == len(plan.visits(given)) == 4
    assert found.seconds > 4 * START_S
    rest = estimate.work(given, [(2, 0, "stock"), (2, 0, "paper")])
    assert (rest.starts, rest.measurements) == (2, 2), "of a run that goes on, what is left"
    one = estimate.work(given, [(2, 0, "paper")])
    assert (one.starts, one.measurements) == (1, 1) and one.prompt_tokens == rest.prompt_tokens / 2
    assert estimate.work(given, []).seconds == 0


def test_what_is_left_is_what_was_measured() -> None:
    took = {("stock", 0): [4.0, 2.0, 3.0], ("paper", 0): [1.0]}
    assert estimate.remaining(took, [("stock", 0), ("paper", 0), ("stock", 0)]) == 7
    assert estimate.remaining(took, [("stock", 1)]) is None
    assert estimate.remaining(took, []) == 0


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "1 s"), (40, "40 s"), (120, "2 min"), (3599, "1 h 0 min"), (3900, "1 h 5 min")]
)
def test_words(seconds: float, said: str) -> None:
    assert estimate.words(seconds) == said
