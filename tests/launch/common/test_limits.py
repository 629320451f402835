"""What a server refuses is known before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_hisa.launch.ab.plan import Arm, parse_cells
from sglang_hisa.launch.ab.record import ArmFacts
from sglang_hisa.launch.ab.runner import Runner
from sglang_hisa.launch.cli import main
from sglang_hisa.launch.common import limits
from sglang_hisa.launch.load import plan
from tests.launch.common.stream_server import Behaviour, streaming


def test_limits_are_asked_of_the_server() -> None:
    with streaming(Behaviour(context=4096)) as url:
        found = limits.ask(url)
    assert found == limits.Limits(context=4096, prompt=4090, pool=8192, running=4)
    assert limits.ask(url) == limits.Limits(None, None, None, None), "nobody answers any more"


def test_what_does_not_fit_is_refused_and_what_waits_is_told() -> None:
    known = limits.Limits(4096, 4090, 8192, 4)
    assert known.refusal(4000, 96) is None
    assert "do not fit the server's context of 4,096 tokens" in str(known.refusal(4000, 97))
    assert "below 4,090 tokens" in str(known.refusal(4090, 1))
    assert known.crowding(2000, 48, 4) is None
    assert "need 8,196 tokens, its KV pool has 8,192" in str(known.crowding(2000, 49, 4))
    assert "of 5 concurrent requests 4 run at a time" in str(known.crowding(10, 1, 5))
    unknown = limits.Limits(None, None, None, None)
    assert unknown.refusal(10**9, 1) is unknown.crowding(10**9, 1, 99) is None


def test_lengths_of_text_are_not_exact_and_so_only_told() -> None:
    known, sweep = limits.Limits(4096, None, None, None), plan.Sweep("rate", (1.0,), 4, 60, 300, 1)
    text = plan.Workload("shared-prefix", 9000, 8, prefix_tokens=100)
    refusal, told = plan.fits(known, text, sweep)
    assert refusal is None and "prompts are of about this length" in told[0]
    assert plan.fits(known, plan.Workload("random", 9000, 8), sweep)[0] is not None


def test_load_refuses_in_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with streaming(Behaviour(context=4096)) as url:
        assert main(["load", url, "--input-tokens", "8k", "--out", str(out)]) == 2
    assert "do not fit the server's context of 4,096 tokens" in capsys.readouterr().err
    assert not out.exists()


def test_ab_refuses_cells_before_it_measures_and_tells_those_that_wait() -> None:
    told: list[str] = []
    record = SimpleNamespace(arms={"paper": ArmFacts()})
    cells = parse_cells("4k:1,2 1k:3,5", 64, 1)
    runner: Any = SimpleNamespace(record=record, plan=SimpleNamespace(cells=cells), tell=told.append)
    refused = Runner._fits(runner, Arm("paper", None), limits.Limits(4096, 4090, 8192, 4))
    assert len(refused) == 1, "two cells, one reason"
    assert refused[0].startswith("arm paper: a prompt of 4,096 tokens and an answer of 64 do not fit")
    assert told == [
        "paper, 1024 tokens x 5: of 5 concurrent requests 4 run at a time; the others wait in its queue"
    ]
    assert record.arms["paper"].limits.context == 4096


def test_a_refusal_has_the_servers_own_words() -> None:
    from sglang_hisa.launch.common.refusal import message, words

    said = {"error": {"message": "too long", "code": 400}}
    assert message(said) == "too long" == words(f"Bad Request: {json.dumps(said)}")
    assert message({"object": "error", "message": "x"}) is not None
    assert message({"text": "error", "choices": []}) is None and message({"error": None}) is None
    assert words("Traceback\n  File\nServerDisconnectedError: gone\n") == "ServerDisconnectedError: gone"
    assert words("") == ""
