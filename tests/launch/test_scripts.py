"""The teaching scripts do what their first lines say."""

import os
import subprocess
import sys

import pytest

from sglang_hisa.launch import tables

LAUNCH = tables.ROOT / "launch"


def call(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(sys.path)
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": path}
    return subprocess.run([LAUNCH / name, *words], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "command"),
    [("ab.sh", "ab"), ("load.sh", "load"), ("serve_hisa.sh", "serve"), ("serve_stock.sh", "serve")],
)
def test_help_is_that_of_the_command(name: str, command: str) -> None:
    done = call(name, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: hisa {command} "), done.stderr


def test_what_follows_is_passed_on() -> None:
    done = call("load.sh", "http://127.0.0.1:9", "--concurrency", "1")
    assert done.returncode == 1 and "no SGLang server answers at http://127.0.0.1:9" in done.stderr
    assert call("ab.sh", "--arms", "stock", "model").returncode == 2


def test_the_image_is_made_of_folders_that_exist() -> None:
    for line in (LAUNCH / "docker" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            assert all((tables.ROOT / name).exists() for name in line.split()[1:-1]), line
