"""Every kernel compiles for an H100, keeps its values in registers, and reads early only what it may."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("sm90.py")
EARLY = {
    f"{kernel}, decode{blocks}" for kernel in ("coarse", "pick", "rank") for blocks in ("", ", blocks of 128")
}


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """What sm90.py says of each form; its environment has no interpreter and an empty cache."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run([sys.executable, PROGRAM], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}


def test_values_stay_in_registers(forms):
    """A multiprocessor has 65536 of them: at 128 a thread, four programs of four warps fit."""
    assert {name: one["stack"] for name, one in forms.items() if one["stack"] > 16} == {}
    assert all(forms[name]["registers"] <= 104 for name in forms if name.startswith("coarse"))
    assert all(one["registers"] <= 168 for one in forms.values())


def test_only_decode_reads_before_its_predecessor_ends(forms):
    """Elsewhere the predecessor may have written what is read: summaries of this step, lengths, tables."""
    for name, one in forms.items():
        waits = [i for i, what in enumerate(one["order"]) if what == "wait"]
        if not waits:
            assert (
                "prefill" in name or "pairs" in name or name.split(",")[0] not in ("coarse", "pick", "rank")
            ), name
            continue
        before = one["order"][: waits[0]]
        assert bool(before) == (name in EARLY), (name, before)
        assert "st" not in before, f"{name} writes before its predecessor ends"
