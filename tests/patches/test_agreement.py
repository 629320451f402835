"""Ranks of one server compare what they run before they serve."""

import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed as dist

from sglang_hisa.config import Config, from_mapping
from sglang_hisa.gpu import Gpu
from sglang_hisa.launch.common.server import free_port
from sglang_hisa.patches import agreement, runtime


def state(config: Config | None = None, sglang: str = "0.5.17") -> runtime.Runtime:
    return runtime.Runtime(config or from_mapping({"preset": "paper"}), sglang, 1)


def meet(states: list[runtime.Runtime | None], timeout_s: float = 20) -> list[list[str]]:
    """What each rank that has HISA finds; None is a rank that serves stock DSA."""
    store = dist.HashStore()

    def rank(number: int) -> list[str]:
        own = agreement.facts(states[number])
        return agreement.disagreements(store, number, len(states), own, timeout_s)

    here = [number for number, one in enumerate(states) if one is not None]
    with ThreadPoolExecutor(len(here)) as pool:
        return list(pool.map(rank, here))


def test_equal_ranks_agree():
    assert meet([state(), state(), state()]) == [[], [], []]


def test_ranks_on_gpus_that_choose_in_another_way_differ():
    """On Hopper rows of prefill choose in groups, elsewhere alone."""
    on = [state() for _ in range(3)]
    for one, capability in zip(on, ((9, 0), (9, 0), (10, 0))):
        one.gpu = Gpu("some GPU", capability)
    assert meet(on[:2]) == [[], []], "an H100 beside an H200"
    for (problem,) in meet(on):
        assert problem == "compute capability is 9.0 on rank 0, 1, 10.0 on rank 2"


def test_every_rank_says_the_same_about_another_setting_and_version():
    other = from_mapping({"preset": "paper", "prefill_tokens": 16384})
    found = meet([state(), state(other), state(sglang="0.5.23"), state()])
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0] == [
        '"prefill_tokens" is 8192 on rank 0, 2, 3, 16384 on rank 1',
        "SGLang is 0.5.17 on rank 0, 1, 3, 0.5.23 on rank 2",
    ]


def test_a_rank_without_hisa_is_named():
    found = meet([state(), None, state(), None], timeout_s=1)
    assert found == [["rank 1, 3: serves stock DSA, or did not start within 1 s"]] * 2


def serve(rank: int, port: int, preset: str, said: Path) -> None:
    sys.stderr = said.open("w")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    one = state(from_mapping({"preset": preset}))
    agreement.check_once(one)
    agreement.check_once(one)  # the second indexer of the model: nothing more to say
    dist.barrier()
    print("serves", file=sys.stderr, flush=True)


@pytest.mark.parametrize("presets", [("paper", "paper"), ("paper", "balanced")])
def test_two_processes_over_gloo(presets, tmp_path):
    spawn, port = multiprocessing.get_context("spawn"), free_port()
    said = [tmp_path / str(rank) for rank in range(2)]
    ranks = [
        spawn.Process(target=serve, args=(rank, port, preset, said[rank]))
        for rank, preset in enumerate(presets)
    ]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(120)
    found = [one.read_text() for one in said]
    if presets[0] == presets[1]:
        assert found == ["serves\n"] * 2 and [one.exitcode for one in ranks] == [0, 0]
        return
    assert found[0] == found[1] and [one.exitcode for one in ranks] == [1, 1]
    assert "refusing to start: the ranks of this server do not run the same HISA" in found[0]
    assert '"preset" is "paper" on rank 0, "balanced" on rank 1' in found[0]
