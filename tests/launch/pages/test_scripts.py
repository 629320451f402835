"""The scripts that make records do what their first lines say."""

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import pytest

from sglang_hisa.launch.cli import make_parser
from sglang_hisa.launch.pages import tables

LAUNCH = tables.ROOT / "launch"


def is_installed(module: str) -> bool:
    """SGLang's is looked for as a file: 0.5.17 fails to import here and leaves later tests a half of it."""
    top, *names = module.split(".")
    if top != "sglang":
        return importlib.util.find_spec(module) is not None
    return Path(importlib.util.find_spec(top).origin).parent.joinpath(*names).with_suffix(".py").is_file()


STEPS = re.findall(r"^#   ([a-z0-9-]+) {2,}", (LAUNCH / "records_h100.sh").read_text(), re.MULTILINE)


@pytest.mark.parametrize("step", STEPS)
def test_steps_of_the_records_are_commands_that_exist(step: str, tmp_path: Path) -> None:
    """With echo for an interpreter the script only says what it would run."""
    env = {**os.environ, "PYTHON": "/bin/echo", "SANITIZER": "/bin/echo"}
    words = [LAUNCH / "records_h100.sh", step, str(tmp_path)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=True)
    said = [line.split() for line in done.stdout.splitlines()]
    lines = [line for line in said if line[0] != "-c"]  # where the record's origin is asked for
    others = [line for line in lines if line[0] != "-m"]
    assert len(others) < len(lines) or step == "sanitize"
    assert not others or (step == "sanitize" and others[-1][:2] == ["--tool", "memcheck"])
    for _, module, *given in (line for line in lines if line[0] == "-m"):
        assert is_installed(module), module
        if module == "sglang_hisa.launch.cli" and given[0] != "bench":
            args, rest = make_parser().parse_known_args(given)
            assert not rest or args.passes_flags_on
            assert given[0] != "ab" or len(args.arms.split(",")) > 1


def test_each_model_is_asked_where_it_is_kept(tmp_path: Path) -> None:
    env, asked = {**os.environ, "PYTHON": "/bin/echo"}, []
    for step in ("frontier-answers", "frontier-paper", "prose-answers", "prose-paper", "decode-prose"):
        words = [LAUNCH / "records_h100.sh", step, str(tmp_path)]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=True)
        asked.append(Path(done.stdout.split()[3]))
    assert [model.name for model in asked] == ["retriever", "retriever", "prose", "prose", "prose"]
    assert all((model / "model.safetensors").is_file() for model in asked)


def test_the_records_script_says_what_it_can_do() -> None:
    words = [LAUNCH / "records_h100.sh", "nope", "out"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and all(step in done.stderr for step in STEPS) and len(STEPS) == 51


def test_the_image_is_made_of_folders_that_exist() -> None:
    for line in (LAUNCH / "docker" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            assert all((tables.ROOT / name).exists() for name in line.split()[1:-1]), line


def test_lists_of_steps_run_side_by_side_on_a_gpu_each(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHON": "/bin/echo"}
    words = [LAUNCH / "records_h100.sh", "--lanes", str(tmp_path), "tune nope", "acceptance"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=True)
    said = sorted(line.split(" after ")[0] for line in done.stdout.splitlines())
    assert said == ["GPU 0, nope: exit 2", "GPU 0, tune: exit 0", "GPU 1, acceptance: exit 0"]
    assert "bench tune" in (tmp_path / "tune.log").read_text()
    assert "sglang_hisa.launch.acceptance" in (tmp_path / "acceptance.log").read_text()


def test_lists_of_steps_run_side_by_side_on_one_gpu(tmp_path: Path) -> None:
    """Each says what it did in a log of its own, although the steps are the same."""
    env = {**os.environ, "PYTHON": "/bin/echo"}
    words = [LAUNCH / "records_h100.sh", "--beside", str(tmp_path), "stress23 stress23-abort", "stress23"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=True)
    said = sorted(line.split(" after ")[0] for line in done.stdout.splitlines())
    assert said == ["list 0, stress23-abort: exit 0", "list 0, stress23: exit 0", "list 1, stress23: exit 0"]
    logs = {log.name: log.read_text() for log in tmp_path.glob("*.log")}
    assert set(logs) == {"stress23.0.log", "stress23.1.log", "stress23-abort.0.log"}
    plain, delayed = logs["stress23.0.log"], logs["stress23-abort.0.log"]
    assert "--scenes radix abort pause warm" in plain and "--jitter" not in plain
    assert "--scenes abort pause " in delayed and "--jitter 10" in delayed and "--enable-hier" in delayed


def test_a_stress_step_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    words = [LAUNCH / "records_h100.sh", "stress23-nope", str(tmp_path)]
    env = {**os.environ, "PYTHON": "/bin/echo"}
    assert subprocess.run(words, env=env, capture_output=True, timeout=60).returncode == 2


def test_a_step_of_a_list_is_ended_after_its_seconds(tmp_path: Path) -> None:
    """What it started ends with it: the process that would have gone on is the step's own child."""
    slow = tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\ntrap "echo ended >{tmp_path}/told; exit 3" TERM\nsleep 50 & wait\n')
    slow.chmod(0o755)
    env = {**os.environ, "PYTHON": str(slow)}
    # Long enough for it to start on a busy machine.
    words = [LAUNCH / "records_h100.sh", "--lanes", str(tmp_path), "stress:4"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=40, check=True)
    assert done.stdout.startswith("GPU 0, stress: exit 124 after ")
    assert (tmp_path / "told").read_text() == "ended\n"
