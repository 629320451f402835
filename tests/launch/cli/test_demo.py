"""``hisa demo``: its checks, one real run, and that it leaves nothing behind."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.common.receipts import Receipt
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.demo import plan as plans
from sglang_hisa.launch.demo.arms import DemoFailed, check_receipts

PLAN = plans.cpu_plan()


def receipt(**changes: Any) -> dict[str, Any]:
    """The receipt that the demo's HISA server must show, with ``changes``."""
    return {"active": True, "layers": 3, "config": dataclasses.asdict(PLAN.config), **changes}


def test_receipts_that_are_right() -> None:
    assert check_receipts(PLAN, False, [None]) is None
    assert check_receipts(PLAN, True, [receipt()]) == read(Receipt, receipt())


@pytest.mark.parametrize(
    ("hisa", "found", "words"),
    [
        (False, [receipt()], "SGLANG_HISA reached it"),
        (True, [None], "serves stock DSA"),
        (True, [], "serves stock DSA"),
        (True, [receipt(active=False)], "the receipt says that HISA is not active"),
        (True, [receipt(layers=2)], "layers is 2, expected 3"),
        (True, [receipt(config={"block": 128})], "config is"),
    ],
)
def test_receipts_that_are_wrong(hisa: bool, found: list[dict[str, Any] | None], words: str) -> None:
    with pytest.raises(DemoFailed, match=words):
        check_receipts(PLAN, hisa, found)


def test_plans_make_hisa_choose() -> None:
    for plan, index_topk in ((PLAN, 64), (plans.gpu_plan(), 2048)):
        budget = plan.config.prefill_tokens
        assert plan.topk == index_topk <= budget == plan.config.decode_tokens
        lengths = [len(request.ids) for request in plan.requests]
        assert min(lengths) < budget < max(lengths) < plan.edges[-1]
        assert plan.requests[1].ids == plan.requests[2].ids, "the radix cache must hit"
        shared = len(plan.requests[3].ids) // 2
        assert plan.requests[3].ids[:shared] == plan.requests[4].ids[:shared]


_PARSE = """
import argparse, json, sys
from sglang.srt.server_args import ServerArgs
parser = argparse.ArgumentParser(allow_abbrev=False)
ServerArgs.add_cli_args(parser)
for flags in json.load(sys.stdin):
    args = parser.parse_args(flags)
    assert args.enable_return_indexer_topk and args.disable_overlap_schedule
"""


@pytest.mark.server
def test_sglang_knows_every_flag() -> None:
    """Also those of the GPU, where the demo cannot run in this suite."""
    flags = [plan.flags(Path("model")) for plan in (PLAN, plans.gpu_plan())]
    env = PLAN.env(None)
    command = [sys.executable, "-c", _PARSE]
    done = subprocess.run(
        command, input=json.dumps(flags), env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def left_behind(folder: Path) -> list[str]:
    """Command lines of processes that name ``folder``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "sglang_hisa.launch.cli", "demo", "--cpu", "--dir", str(folder)]


@pytest.mark.once("0.5.23")
@pytest.mark.server
def test_demo_runs(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["layers", "3"] in lines
    assert [line[-2:] for line in lines if line[:2] == ["middle", "again"]], "requests are listed"
    cached = next(line for line in lines if line[:2] == ["middle", "again"])
    assert cached[2:5] == ["700", "640", "640"]
    shares = [line for line in lines if line[:1] in (["prefill"], ["decode"]) and line[2:3] == ["to"]]
    assert {line[0] for line in shares} == {"prefill", "decode"}
    past = [line for line in shares if int(line[1]) > 256]
    assert past
    for line in past:
        scored, kept = (float(cell.rstrip("%")) for cell in line[5:7])
        assert scored < kept < 100, "better than a choice without the summaries, but not everything"
    assert not left_behind(tmp_path)


@pytest.mark.once("0.5.23")
@pytest.mark.server
def test_an_interrupted_demo_leaves_no_server(tmp_path: Path) -> None:
    child = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if "starting the server" in line:
                break
        deadline = time.monotonic() + 300
        while not any("launch_server" in words for words in left_behind(tmp_path)):
            assert time.monotonic() < deadline, "the server was not started"
            time.sleep(0.2)
        time.sleep(5)  # far enough for worker processes
        child.send_signal(signal.SIGTERM)
        rest, _ = child.communicate(timeout=300)
    finally:
        child.kill()
    assert child.returncode == 130 and "interrupted" in rest
    assert not left_behind(tmp_path)
