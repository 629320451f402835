"""SGLang's load generator and a server that streams as SGLang does: whole answers, times of tokens."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_hisa.launch.ab import client as ab_client
from sglang_hisa.launch.ab import validity
from sglang_hisa.launch.ab.plan import Cell
from sglang_hisa.launch.common.client import Client
from sglang_hisa.launch.common.models import make_tiny
from sglang_hisa.launch.common.server import cpu_env
from sglang_hisa.launch.load import goodput, plan
from sglang_hisa.launch.load.points import Kept
from sglang_hisa.launch.load.sweep import child_env
from tests.launch.common.stream_server import REFUSAL, Behaviour, streaming

pytestmark = pytest.mark.timeout(600)
OUT = 33
WORKS = {
    "random": plan.Workload("random", 20, OUT),
    "shared-prefix": plan.Workload("shared-prefix", 20, OUT, groups=1, prefix_tokens=10),
    "multi-turn": plan.Workload("multi-turn", 20, OUT, groups=1, prefix_tokens=10, turns=2),
}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, str]]:
    """The process of the load generator and a model folder, of which it wants the tokenizer."""
    folder = tmp_path_factory.mktemp("generator")
    model = str(make_tiny(folder / "model", layers=2))
    with Client(child_env(cpu_env(os.environ, None)), folder / "client.log") as client:
        yield client, model


def send(
    generator: tuple[Client, str], url: str, name: str, kind: str = "concurrency", load: float = 2
) -> dict[str, Any]:
    client, model = generator
    sweep = plan.Sweep(kind, (load,), 4, 60, 300, 1)
    flags = plan.flags(url, model, model, WORKS[name], sweep, 0)
    return client.run(flags, 300, fresh="once")


@pytest.mark.parametrize("name", WORKS)
def test_times_are_those_of_tokens_when_several_come_at_once(generator: Any, name: str) -> None:
    """8 tokens a chunk, 20 ms each: a gap between chunks takes 160 ms."""
    with streaming(Behaviour(step=8, token_s=0.02)) as url:
        found = goodput.requests(send(generator, url, name))
    assert len(found) == 4 * WORKS[name].turns and all(one.error is None for one in found)
    for one in found:
        assert one.output == OUT and one.input == 20
        assert 0.018 < one.tpot < 0.08, "this machine may be busy"
        assert one.itl < 0.1
        assert one.e2e == pytest.approx(one.ttft + one.tpot * (OUT - 1), abs=1e-4)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("refuse", REFUSAL),
        ("abort", "the server aborted the answer after 16 of 33 tokens (abort"),
        ("break", "the stream broke off after 16 of 33 tokens"),
        ("short", "the server ended the answer after 16 of 33 tokens (length)"),
    ],
)
@pytest.mark.parametrize("name", ["random", "multi-turn"])
def test_an_answer_that_is_not_whole_failed_in_the_servers_words(
    generator: Any, name: str, fault: str, why: str
) -> None:
    with streaming(Behaviour(fault=fault)) as url:
        result = send(generator, url, name)
    found = goodput.requests(result)
    assert len(found) == 4 * WORKS[name].turns
    for one in found:
        assert one.error.startswith(why) and one.ttft is None and one.output == 0
    if (name, fault) == ("random", "abort"):
        assert "the KV pool is full" in (found[0].error or "")
    assert goodput.point(Kept(1, 1.0, found), {}).output_tok_s == 0


def test_ab_refuses_with_the_servers_words(generator: Any) -> None:
    client, model = generator
    cell = Cell(20, OUT, 1, 2)
    with streaming(Behaviour(fault="refuse")) as url:
        result = client.run(ab_client.arguments(url, model, cell, 1))
    record: Any = SimpleNamespace(
        plan=SimpleNamespace(cells=[cell]),
        flags=(),
        measurements=[ab_client.kept(result, "stock", 0, 0, cell, 1)],
    )
    (why,) = validity.load_problems(record)
    assert why == f"arm stock, round 0, 20 tokens x 1: 2 requests failed ({REFUSAL})"


def test_the_rate_that_arrived_is_measured(generator: Any) -> None:
    with streaming(Behaviour()) as url:
        moments = send(generator, url, "random", "rate", 20)["arrivals"]
    assert len(moments) == 4 and moments[0] == 0 and moments == sorted(moments)
    assert goodput.arrived(moments) == pytest.approx(3 / moments[-1])
    assert statistics.fmean(moments) < 5 and goodput.arrived([0.0]) is None
