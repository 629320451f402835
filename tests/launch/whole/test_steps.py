"""The steps of a run on N GPUs: what is called, that it goes on, and that it ends in time."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from pathlib import Path

import pytest

from sglang_hisa.launch.ab import plan
from sglang_hisa.launch.acceptance import __main__ as acceptance
from sglang_hisa.launch.acceptance import cases, pd, ranks, whole
from sglang_hisa.launch.cli import make_parser
from sglang_hisa.launch.common.arms import parse_arms
from sglang_hisa.launch.whole import __main__ as driver
from sglang_hisa.launch.whole.steps import NUMBERS, Run, Step, steps

H200 = 143771


@pytest.mark.parametrize("cpu", [False, True])
@pytest.mark.parametrize("gpus", NUMBERS)
def test_commands_exist_and_go_on(gpus: int, cpu: bool, tmp_path: Path) -> None:
    """Each is understood by what it calls, keeps what it has, and takes all GPUs."""
    found = {step.name: step for step in steps(Run(gpus, H200, tmp_path, cpu))}
    assert found.keys() >= {"tp", "ab", "ab-mtp"} and (gpus == 1) == ("dp" not in found)
    rows = []
    for step in found.values():
        for _, _, module, *words in step.commands:
            if module == "sglang_hisa.launch.acceptance":
                args = acceptance._parser().parse_args(words)
                assert args.missing and args.gpus == gpus and args.cpu == cpu
                assert args.out == tmp_path / f"{NUMBERS[gpus]}-gpu.json"
                rows += args.cases or []
                continue
            args, rest = make_parser().parse_known_args(words)
            if words[0] != "ab":
                args.run(args)
                continue
            assert args.resume and args.quality == 0 and args.model and not args.together
            assert (Path(args.model) / "config.json").is_file(), "made by the command before"
            assert ("--tp" in rest) == (gpus > 1) and ("--load-format" in rest) != cpu
            assert [arm.name for arm in parse_arms(args.arms, {})] == ["stock", "balanced", "paper"]
            made = plan.parse_cells(args.cells, args.output_tokens, 1)
            shared = [cell for cell in made if cell.prefix_tokens]
            assert bool(shared) == ("--dp" not in rest)
            if not cpu:
                assert {(c.input_tokens >> 10, c.concurrency) for c in made if not c.prefix_tokens} == {
                    (size, count) for size in (8, 32, 128) for count in (1, 4)
                }
                assert all(cell.prefix_tokens == 128 << 10 for cell in shared)
    assert set(rows) == set(whole.cases(gpus))


def test_speculative_decoding_is_on_in_one_and_drafts_are_made(tmp_path: Path) -> None:
    for cpu in (False, True):
        found = {step.name: step for step in steps(Run(8, H200, tmp_path, cpu))}
        for name in ("ab", "ab-mtp", "ab-dp"):
            assert ("--speculative-algorithm" in found[name].commands[1]) == (name == "ab-mtp")
        make = found["ab-mtp"].commands[0]
        make_parser().parse_args(make[3:]).run(make_parser().parse_args(make[3:]))
        folder = Path(make[-1] if cpu else make[6])
        assert json.loads((folder / "config.json").read_text())["num_nextn_predict_layers"] == 1
    # Sampled where it is no whole number, and ranks would have to sample alike.
    assert float(steps(Run(8, H200, tmp_path))[4].env["SGLANG_SIMULATE_ACC_LEN"]).is_integer()


def test_half_of_the_gpus_are_a_side(tmp_path: Path) -> None:
    assert pd.case(4).flags == cases.tp(4) and pd.case(1).flags == ()
    of = ranks.case(8)
    assert of.gpus == 8 and of.flags[:2] == ("--tp", "8")
    assert set(cases.of(8)) == {"tp8", "tp8-broadcast", "dp8", "dp8-mtp", "pp8"} and not set(cases.of(8)) & {
        *cases.CASES
    }
    assert set(cases.of(2)) == {name for name, case in cases.CASES.items() if case.gpus == 2}
    config = cases.of(8)["pp8"].model(tmp_path) / "config.json"
    assert json.loads(config.read_text())["num_hidden_layers"] == 8, "a layer for each stage"


def test_the_plan_is_printed_and_nothing_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--gpus", "8", "--gpu-mib", str(H200), "--out", str(tmp_path / "out"), "--plan"]
    assert driver.main(words) == 0 and not (tmp_path / "out").exists()
    said = capsys.readouterr().out.splitlines()
    names = re.findall(r"^# ([\w-]+):", "\n".join(said), re.MULTILINE)
    assert names == ["tp", "ab", "dp", "pd", "ab-mtp", "ab-dp", "cases", "choices", "sides"]
    assert any("--layers 61" in line for line in said) and all(shlex.split(line) for line in said)
    assert driver.main([*words, "--steps", "pd"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu-mib", "16384", "--gpus", "1"], "no layer fits 1 GPUs of 16,384 MiB"),
        (["--cpu", "--gpus", "2", "--steps", "tpp"], "no such step: tpp; allowed: tp, ab, dp"),
        (["--cpu", "--gpus", "2", "--plugins", "nowhere"], "no plugins in nowhere: run this in a checkout"),
    ],
)
def test_what_cannot_be_run_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        driver.main([*words, "--plan"])
    assert said in capsys.readouterr().err


def step(*code: str) -> Step:
    return Step("one", "it", tuple((sys.executable, "-c", one) for one in code), {"TOLD": "7"})


def test_a_command_that_takes_too_long_is_asked_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LEAST", 0.5)
    (tmp_path / "slow").write_text("no")
    slow = f"""
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path({str(tmp_path / "slow")!r}).write_text("ended")
"""
    begin = time.monotonic()
    assert driver.run(step("import os; assert os.environ['TOLD'] == '7'", slow), begin + 5) == "cut off"
    assert (tmp_path / "slow").read_text() == "ended" and time.monotonic() - begin < 30
    assert driver.run(step("pass"), time.monotonic() + 0.1) == "not started, no time is left"
    assert driver.run(step("import sys; sys.exit(3)", "1/0"), time.monotonic() + 30) == "exit code 3"
    assert driver.run(step("pass"), time.monotonic() + 30) == ""


def test_paths_are_added_to() -> None:
    assert driver.merged({"PYTHONPATH": "a", "B": "1"}, {"PYTHONPATH": "c"}) == {
        "PYTHONPATH": "a:c",
        "B": "1",
    }
    assert driver.merged({"B": "1"}, {}) == {"B": "1"}


def test_what_is_left_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = {"tp": "", "ab": "cut off"}
    monkeypatch.setattr(driver, "run", lambda step, end: done[step.name])
    words = ["--cpu", "--gpus", "1", "--out", str(tmp_path), "--steps", "tp", "ab"]
    assert driver.main(words) == 1
    assert capsys.readouterr().out == "ab: cut off\ncall again, or look at what failed\n"
    done["ab"] = ""
    assert driver.main(words) == 0 and capsys.readouterr().out == "nothing is left\n"
