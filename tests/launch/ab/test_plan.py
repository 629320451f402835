"""What an A/B measures in which order, and what it refuses to compare."""

from dataclasses import replace
from typing import Any

import pytest

from sglang_hisa.launch.ab import plan, validity
from sglang_hisa.launch.ab.plan import Cell, Plan
from sglang_hisa.launch.ab.record import AbRecord, ArmFacts, Measurement
from sglang_hisa.launch.common.arms import parse_arms

ACTIVE = {"active": True, "summary_bytes": 1}


def make(rounds: int, arms: str = "stock,balanced,paper") -> Plan:
    return Plan(parse_arms(arms), plan.parse_cells("8k:1,4 100", 7, 3), rounds, False, 1, 4096, 0.05)


def test_cells() -> None:
    assert make(1).cells == (Cell(8192, 7, 1, 3), Cell(8192, 7, 4, 12), Cell(100, 7, 1, 3))
    for wrong in ("", "8k:0", "0:1", "x:1", "8k:1,"):
        with pytest.raises(ValueError):
            plan.parse_cells(wrong, 7, 1)


def test_cells_with_a_shared_prefix() -> None:
    """Answers of many requests are longer: the first has not ended when the last begins."""
    found = plan.parse_cells("128k+64:1,64 2k:3", 100, 1)
    size = 128 * 1024
    assert found == (
        Cell(size + 64, 100, 1, 1, size),
        Cell(size + 64, 163, 64, 64, size),
        Cell(2048, 100, 3, 3),
    )
    assert [cell.own_tokens for cell in found] == [64, 64, 2048]
    for wrong, waves in (("100+64:1", 1), ("128k+0:1", 1), ("+64:1", 1), ("128k+:1", 1), ("128k+64:4", 2)):
        with pytest.raises(ValueError):
            plan.parse_cells(wrong, 100, waves)
    short = Plan(parse_arms("stock,paper"), found, 1, True, 1, 4096, 0.05).warmup(found[1])
    assert short == Cell(size + 64, plan.WARMUP_OUTPUT, 1, 1, size), "a shared prefix is warmed up whole"


def test_a_pool_that_is_too_small_for_a_shared_prefix_is_refused_before_any_load() -> None:
    cells = plan.parse_cells("128k+64:64,128 256k:64", 64, 1)
    need = 128 * 1024 + 128 * 256  # 64 tokens of its own and 191 of the answer, in pages of 64
    assert cells[1].pool_tokens == need
    assert validity.pool_problems("x", ArmFacts(kv_tokens=need), cells) == []
    (why,) = validity.pool_problems("x", ArmFacts(kv_tokens=need - 64), cells)
    assert f"holds {need - 64:,} tokens, a cell needs {need:,} at once" in why
    assert validity.pool_problems("x", ArmFacts(kv_tokens=10), cells[2:]) == [], "others wait in the queue"


def test_a_warm_up_is_one_request_of_bounded_length() -> None:
    assert [make(1).warmup(cell) for cell in make(1).cells] == [
        *(Cell(4096, 7, 1, 1), Cell(4096, 7, 1, 1), Cell(100, 7, 1, 1))
    ]


def test_fresh_servers_measure_every_round_once_and_in_turns() -> None:
    wanted = make(3)
    starts = [(arm.name, rounds) for arm, rounds in plan.visits(wanted)]
    assert starts == [
        ("stock", (0,)),
        ("balanced", (0,)),
        ("paper", (0, 1)),
        ("balanced", (1,)),
        ("stock", (1, 2)),
        ("balanced", (2,)),
        ("paper", (2,)),
    ]


@pytest.mark.parametrize(
    ("setting", "receipts", "problem"),
    [
        (None, [None, None], None),
        (None, [None, ACTIVE], "not stock"),
        ("paper", [ACTIVE, ACTIVE], None),
        ("paper", [ACTIVE, None], "no HISA receipt"),
        ("paper", [], "no HISA receipt"),
        ("paper", [ACTIVE, {**ACTIVE, "active": False}], "not active"),
    ],
)
def test_receipts(setting: str | None, receipts: list[Any], problem: str | None) -> None:
    found = validity.arm_problems("x", setting, receipts)
    assert (not found) if problem is None else (len(found) == 1 and problem in found[0])


def test_flags_may_not_differ() -> None:
    base = {"version": "0.5.17", "chunked_prefill_size": 8192, "port": 1, "kv_cache_dtype": "auto"}
    other = {**base, "port": 2, "launch_command": "--port 2", "random_seed": 415586428}
    first = {
        **base,
        "launch_command": "--port 1",
        "random_seed": 71082596,
    }  # two servers that were found running
    assert validity.flag_problems(first, other, "x") == []
    found = validity.flag_problems(base, {"version": "0.5.23", "chunked_prefill_size": 4096, "port": 1}, "x")
    assert [word for word in base if any(word in line for line in found)] == [
        "version",
        "chunked_prefill_size",
        "kv_cache_dtype",
    ]


def loads(**changes: Any) -> AbRecord:
    good = Measurement(
        **{"round": 0, "arm": "stock", "cell": 2, "seed": 1, "requests": 3, "completed": 3, "errors": ()},
        **{"input_lens": (100,) * 3, "output_lens": (7,) * 3, "cached": (0, 63, 0)},
        **{"ttft_s": (0.1,) * 3, "tpot_s": (0.1,) * 3, "itl_s": (0.1,) * 18},
        **{"output_tok_s": 1.0, "total_tok_s": 1.0, "duration_s": 1.0},
    )
    return AbRecord(
        **{"complete": True, "refusals": (), "model": "m", "flags": (), "arms": {}, "plan": make(1).kept()},
        measurements=(good, replace(good, arm="paper", **changes)),
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"completed": 2, "errors": ["connection reset"]}, "1 requests failed (connection reset)"),
        ({"input_lens": [100, 101, 100]}, "prompts of [100, 101] tokens"),
        ({"output_lens": [7, 7, 6]}, "answers of [6, 7] tokens"),
        ({"ttft_s": [0.1, 0.0, 0.1]}, "without a first token"),
        ({"cached": [64, 0, 4]}, "round 0, 100 tokens x 1: 1 of 3 prompts were not new: of one, 64 tokens"),
    ],
)
def test_loads(changes: dict[str, Any], problem: str | None) -> None:
    found = validity.load_problems(loads(**changes))
    assert (not found) if problem is None else (len(found) == 1 and problem in found[0])


@pytest.mark.parametrize(
    ("cached", "warm", "known", "problem"),
    [
        ([1024, 1087, 1030], 0, 0, None),
        ([1024] * 3, 1030, 1024, None),  # a second round: the warm-up of the first brought it
        ([1024, 960, 0], 0, 0, "2 of 3 prompts did not find the shared prefix of 1024 tokens"),
        ([1024, None, 1024], 0, 0, "1 of 3 prompts did not find"),
        ([1024, 1088, 1024], 0, 0, "1 of 3 prompts were not new"),
        ([1024] * 3, 1024, 0, "the shared prefix: 1 of 1 prompts were not new"),
        ([1024] * 3, 1024, 512, "the shared prefix: 1 of 1 prompts were not new"),
    ],
)
def test_a_shared_prefix_comes_from_the_cells_own_warm_up(
    cached: list[int | None], warm: int, known: int, problem: str | None
) -> None:
    record = loads(cached=cached, warmup_cached=warm, known_prefix=known, input_lens=[1100] * 3)
    plan = replace(record.plan, cells=(*record.plan.cells[:2], Cell(1100, 7, 3, 3, 1024)))
    found = validity.load_problems(replace(record, plan=plan, measurements=record.measurements[1:]))
    assert (not found) if problem is None else (len(found) == 1 and problem in found[0])


def test_hits_of_every_arm_alike_are_refused_too() -> None:
    """A storage that an earlier run filled serves all arms the same."""
    record = loads(cached=[64] * 3)
    both = tuple(replace(one, cached=(64,) * 3) for one in record.measurements)
    found = validity.load_problems(replace(record, measurements=both))
    assert [line.partition(",")[0] for line in found] == ["arm stock", "arm paper"]
    assert all("drop --hicache-storage-backend" in line for line in found)
