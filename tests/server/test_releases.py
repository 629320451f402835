"""Each release between the first and the last that HISA knows serves it on a CPU (`make test-versions`)."""

import os
from pathlib import Path

import pytest

from sglang_hisa.patches import contract
from sglang_hisa.patches.releases import NEWEST, OLDEST, RELEASES

from .conftest import shared_prefix_load, spawned
from .test_real_server import SMALL, assert_active, assert_right

pytestmark = [pytest.mark.server, pytest.mark.versions, pytest.mark.timeout(1800)]

IMPORTS = {NEWEST: ("0.5.22",), OLDEST: ("0.5.18", "0.5.19", "0.5.20", "0.5.21")}
"""Releases that import with the packages of an environment: those pin one release of transformers."""
SOURCES = Path(__file__).parents[2] / ".sglang"
"""Unpacked wheels, one folder for each release: `make test-versions` fetches them."""


@pytest.mark.parametrize("release", IMPORTS.get(contract.installed_version(), ()))
def test_selections_and_summaries_under_load(release, tmp_path, tiny):
    """Chunked prefill, mixed batches, a pool smaller than the load; pages come back from the host."""
    source = SOURCES / release
    assert (source / "sglang").is_dir(), f"{source} has no SGLang: make test-versions"
    flags = ["--chunked-prefill-size", "256", "--enable-mixed-chunk"]
    flags += ["--enable-hierarchical-cache", "--hicache-ratio", "4"]
    hisa = {**SMALL, "prefill_group": 2, "canary": "full"}
    before = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", before)
        server_of = spawned(tmp_path, tiny, hisa, flags, pool_tokens=2048)
        with server_of as (server, counts):
            for _ in range(2):
                answers = shared_prefix_load(server)
                assert all(len(answer["output_ids"]) == 9 for answer in answers)
            receipt = assert_active(server)
            assert_right(counts(), rows=4000, pruned=True)
    assert receipt["sglang"] == release and receipt["source"] == {"verified": True, "unknown": []}
    assert receipt["summary_rebuilds"]["hicache_load"] > 0, "no page came back from the host"
    assert receipt["canary"]["checks"] > 0 and receipt["canary"]["violations"] == 0


def test_each_release_is_started_somewhere():
    assert sorted(release for each in IMPORTS.values() for release in each) == list(RELEASES[1:-1])
