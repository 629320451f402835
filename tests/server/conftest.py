"""Real SGLang servers on the CPU, watched by the oracle plugin."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from sglang_hisa.config import from_mapping
from sglang_hisa.launch.common.models import make_tiny
from sglang_hisa.launch.common.server import ServerProcess, cpu_env, cpu_flags
from sglang_hisa.patches import contract
from sglang_hisa.patches.releases import NEWEST

PLUGINS = Path(__file__).parents[1] / "plugins"
ALWAYS = tuple(PLUGINS / name for name in ("oracle", "faults", "pd"))
"""On the path of each server; those but the oracle do nothing unless they are asked to."""
TOPK = 64

if contract.installed_version() != NEWEST:
    collect_ignore = ["test_scripted.py"]  # the scripted runtime came with it


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("model"), index_topk=TOPK)


def watched_env(tmp_path, hisa, *, fused=False, plugins=()):
    """Environment of a server that the oracle watches, and the file of its counts; see :func:`watched`."""
    given = {"block": 64, "sink_tokens": 64, "local_tokens": 64, **(hisa or {})}
    out = tmp_path / "oracle.json"
    config = from_mapping(hisa or {})
    setting = {
        "out": str(out),
        "topk": TOPK,
        "block": given["block"],
        "sink": given["sink_tokens"],
        "local": given["local_tokens"],
        "decode": given.get("decode_tokens", 0),
        "prefill": given.get("prefill_tokens", 0),
        "group": config.prefill_group,
        "heads": config.prefill_heads,
    }
    env = cpu_env(os.environ, None if hisa is None else json.dumps(hisa), fused=fused)
    paths = (env["PYTHONPATH"], *map(str, (*ALWAYS, *plugins)))
    return {**env, "PYTHONPATH": os.pathsep.join(paths), "ORACLE": json.dumps(setting)}, out


@contextmanager
def watched(tmp_path, model, hisa, flags=(), *, fused=False, pool_tokens=8192, extra=None, plugins=()):
    """A ready server; ``hisa`` is the SGLANG_HISA mapping or None, ``extra`` more of its environment,
    ``plugins`` more folders of SGLang plugins.

    Yields (server, read_counts).
    """
    env, out = watched_env(tmp_path, hisa, fused=fused, plugins=plugins)
    env |= extra or {}
    argv = [*cpu_flags(model, pool_tokens=pool_tokens), *flags]
    with ServerProcess(argv, env=env, log=tmp_path / "server.log") as server:
        server.wait_ready(900)
        yield server, lambda: json.loads(out.read_text())
        server.stop(grace=0)  # SGLang waits on SIGTERM for what no test needs; the oracle writes as it goes


@contextmanager
def spawned(tmp_path, *args, **kwargs):
    """:func:`watched`, with processes that load their plugins themselves, as they do on a GPU."""
    told, spawning = tmp_path / "loaded", PLUGINS / "spawned"
    with watched(tmp_path, *args, extra={"SPAWNED": str(told)}, plugins=[spawning], **kwargs) as server:
        yield server
    assert len(set(told.read_text().split())) > 1, "the scheduler took over what the first process loaded"


def text(length, seed):
    source = random.Random(seed)
    return "".join(chr(97 + source.randrange(26)) for _ in range(length))


def shared_prefix_load(server, count=12, at_once=6):
    """Requests of odd lengths, two thirds of which share a prefix, several at a time; their answers."""
    base = text(530, 1)
    prompts = []
    for i in range(count):
        own = text(17 + 61 * i % 500, 100 + i)
        prompts.append(own + text(200, i) if i % 3 == 0 else base[: 64 * (i % 8 + 1) - i % 3] + own)
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda p: server.generate(p, 9), prompts))
