"""Real servers on the CPU that share one HiCache storage (L3): the file backend over one folder."""

import time
from pathlib import Path

import pytest

from tests.server.conftest import text, watched
from tests.server.test_real_server import SMALL

pytestmark = [pytest.mark.server, pytest.mark.once("0.5.23")]

PROMPT = text(1285, 3)
PAGES = 1285 // 64
FLAGS = [
    *("--enable-hierarchical-cache", "--hicache-ratio", "2", "--hicache-storage-backend", "file"),
    *("--hicache-write-policy", "write_through", "--hicache-storage-prefetch-policy", "wait_complete"),
    "--enable-cache-report",
]
HISA = {**SMALL, "canary": "full"}
WIDER = {**HISA, "prefill_tokens": SMALL["prefill_tokens"] + 64}


def taken(folder: Path, model: Path, name: str, hisa: dict | None) -> tuple[int, dict | None]:
    """Tokens of ``PROMPT`` that a new server took from the storage, and its receipt."""
    (folder / name).mkdir()
    extra = {"SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR": str(folder / "storage")}
    with watched(folder / name, model, hisa, FLAGS, extra=extra) as (server, _):
        details = server.generate(PROMPT, 7)["meta_info"].get("cached_tokens_details") or {}
        settled(folder / "storage")
        return details.get("storage", 0), server.receipts()[0]


def settled(storage: Path) -> int:
    """Wait until nothing more is written to ``storage``; its files."""
    before, deadline = -1, time.monotonic() + 60
    while (now := len(list(storage.glob("*.bin")))) != before or not now:
        assert time.monotonic() < deadline, f"{now} files"
        before = now
        time.sleep(2)
    return now


def test_a_server_finds_the_pages_of_its_own_settings_alone(tmp_path: Path, tiny: Path) -> None:
    storage = tmp_path / "storage"
    assert taken(tmp_path, tiny, "first", HISA)[0] == 0
    kept = settled(storage)
    assert kept >= 2 * PAGES, "KV and index keys of each page"

    assert taken(tmp_path, tiny, "stock", None) == (0, None)
    assert settled(storage) == 2 * kept, "stock keeps its own beside them"
    assert taken(tmp_path, tiny, "wider", WIDER)[0] == 0

    hits, receipt = taken(tmp_path, tiny, "same", {**HISA, "audit": 0.5})
    assert hits == PAGES * 64 and receipt
    assert receipt["summary_rebuilds"] == {"hicache_load": PAGES}
    assert receipt["canary"]["violations"] == 0 and receipt["canary"]["checks"] > 0
