"""SGLang's scripted runtime (in 0.5.23's wheel): requests disturbed at exact steps of the scheduler."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from sglang_hisa.launch.common.server import cpu_flags
from tests.server.conftest import PLUGINS, watched_env
from tests.server.test_real_server import SMALL, assert_right

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]

SCRIPTED = PLUGINS / "scripted"
SCRIPTS = [
    *(["at_each_stage", [how]] for how in ("abort", "retract")),
    *(["around_page_ends", [how]] for how in ("abort", "retract", "in_place")),
    ["pages_change_hands", []],
]


def arguments(model):
    """``cpu_flags`` as SGLang's ServerArgs."""
    given, flags = {}, cpu_flags(model, pool_tokens=4096)
    for flag, value in zip(flags, [*flags[1:], "--"]):
        if flag.startswith("--"):
            known = True if value.startswith("--") else value
            given[flag[2:].replace("-", "_")] = known
    numbers = ("context_length", "page_size", "max_total_tokens", "max_running_requests")
    given |= {name: int(given[name]) for name in numbers}
    del given["sleep_on_idle"]  # scripts come by another socket than the one that it waits for
    given["mem_fraction_static"] = float(given["mem_fraction_static"])
    return {
        **given,
        "chunked_prefill_size": 256,
        "kv_canary": "none",
        "kv_canary_real_data": "none",
        "kv_canary_sweep_interval": 0,
    }


def test_requests_disturbed_at_exact_steps(tmp_path, tiny):
    hisa = {**SMALL, "canary": "full", "canary_stop": True}
    env, counts = watched_env(tmp_path, hisa, plugins=[SCRIPTED])
    env["SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND"] = "python"  # the Rust one has its source nowhere here
    words = [sys.executable, str(SCRIPTED / "drive.py"), json.dumps(arguments(tiny)), json.dumps(SCRIPTS)]
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(words, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            code = child.wait(1500)
        finally:
            with contextlib.suppress(ProcessLookupError):  # all of its servers, however it went
                os.killpg(child.pid, signal.SIGKILL)
    text = (tmp_path / "log").read_text()
    assert code == 0 and "all scripts ran" in text, text[-6000:]
    assert_right(json.loads(counts.read_text()), rows=3000, pruned=True)
