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
REFINE = {"refine, decode", "refine, 8 rows of 16 heads, dependent"}
"""Of steps that choose and refine with dependent launches."""


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """What sm90.py says of each form; its environment has no interpreter and an empty cache."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run([sys.executable, PROGRAM], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}


def accesses(order):
    return [what for what in order if what not in ("wait", "launch")]


def test_values_stay_in_registers(forms):
    """A multiprocessor has 65536 of them: at 128 a thread, four programs of four warps fit."""
    assert {name: one["stack"] for name, one in forms.items() if one["stack"] > 16} == {}
    assert all(forms[name]["registers"] <= 104 for name in forms if name.startswith("coarse"))
    assert all(one["registers"] <= 168 for one in forms.values())


def test_seals_load_keys_16_bytes_at_a_time(forms):
    """Else byte by byte, as where a kernel does not know how a layer is aligned."""
    seals = {name: one["order"].count("ld key_ptr") for name, one in forms.items() if name.startswith("seal")}
    assert len(seals) == 4 and set(seals.values()) == {64 * 128 // (128 * 16)}, "keys, by threads"


def test_a_thread_adds_up_the_heads_of_four_rows_or_more_by_itself(forms):
    """Eight heads that four threads share would cost as many exchanges as products."""
    groups = {
        name: one["shuffles"] for name, one in forms.items() if name.startswith("refine") and "rows" in name
    }
    assert len(groups) == 5 and set(groups.values()) == {0}
    assert forms["refine"]["shuffles"] > 0


def test_only_decode_reads_before_its_predecessor_ends(forms):
    """Elsewhere the predecessor may have written what is read: summaries of this step, lengths, tables."""
    for name, one in forms.items():
        waits = [i for i, what in enumerate(one["order"]) if what == "wait"]
        if not waits:
            kernel = name.split(",")[0]
            assert "prefill" in name or "pairs" in name or kernel not in ("coarse", "pick", "rank"), name
            assert name not in REFINE
            continue
        before = accesses(one["order"][: waits[0]])
        assert bool(before) == (name in EARLY | REFINE), (name, before)
        assert not any(what.startswith("st") for what in before), f"{name} writes before its predecessor ends"


def test_refine_reads_early_what_was_made_before_the_coarse_kernel(forms):
    """And all of it: only the table of the pick, and what its pages lead to, is left for after the wait."""
    for name in REFINE:
        order = forms[name]["order"]
        assert order.count("wait") == order.count("launch") == 1
        at = order.index("wait")
        assert set(order[:at]) == {"ld length_ptr", "ld q_ptr", "ld weight_ptr"}
        assert set(accesses(order[at:])) == {"ld table_ptr", "ld key_ptr", "ld scale_ptr", "st out_ptr"}


def test_keys_and_scales_of_the_next_page_are_loaded_before_this_one_is_stored(forms):
    for name in (*REFINE, "refine", "refine, pairs"):
        order = forms[name]["order"]
        store = order.index("st out_ptr")
        for what in ("ld key_ptr", "ld scale_ptr"):
            assert what in order[:store] and what in order[store:], f"{name}: {what} is not loaded ahead"


def test_who_starts_after_the_pick_or_refine_may_rely_on_all_before_it(forms):
    """Refine reads queries, and a top-k may read tables, before they wait: dependents start after a wait."""
    seen = 0
    for name, one in forms.items():
        if name.split(",")[0] in ("pick", "rank", "refine"):
            steps = [what for what in one["order"] if what in ("wait", "launch")]
            assert steps == ["wait", "launch"] * (len(steps) // 2), name
            seen += len(steps)
    assert seen
