"""Arms that already run: what they serve is asked, and must be what their names say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.ab import running
from sglang_hisa.launch.common.arms import Arm
from sglang_hisa.launch.common.server import ServerFailed
from tests.launch.ab.json_server import serving

HISA = {"active": True, "preset": "paper", "summary_bytes": 1}


def info(*receipts: dict[str, Any] | None) -> dict[str, Any]:
    return {"internal_states": [{"sglang_hisa": one} if one else {} for one in receipts], "model_path": "/m"}


def test_names_and_urls() -> None:
    found = running.parse("stock=http://127.0.0.1:30000, mine=localhost:30001")
    assert found == {"stock": "http://127.0.0.1:30000", "mine": "http://localhost:30001"}
    for wrong in ("stock=http://127.0.0.1:1", "a,b", "a=http://127.0.0.1:1,a=http://127.0.0.1:2", "a=,b=x"):
        with pytest.raises(ValueError):
            running.parse(wrong)
    with pytest.raises(ValueError, match="this machine only"):
        running.parse("stock=http://127.0.0.1:1,paper=http://example.com:2")
    with pytest.raises(ValueError, match="two servers"):
        running.parse("a=http://127.0.0.1:1,b=http://localhost:1")


def test_arms_are_what_the_receipts_say() -> None:
    assert running.arms({"stock": info(None, None), "paper": info(HISA), "mine": info(HISA, HISA)}) == (
        *(Arm("stock", None), Arm("paper", '{"preset": "paper"}'), Arm("mine", '{"preset": "paper"}')),
    )
    for name, receipts, why in (
        ("stock", (HISA,), "serves paper"),
        ("balanced", (HISA,), "serves paper"),
        ("paper", (None,), "serves stock"),
        ("paper", ({**HISA, "active": False},), "serves stock"),
        ("mine", (HISA, None), "its schedulers serve paper, stock"),
    ):
        with pytest.raises(ValueError, match=f"arm {name}: .*{why}"):
            running.arms({name: info(*receipts)})


def test_a_running_server_is_asked_and_left_alone(tmp_path: Path) -> None:
    with serving(lambda path, body: info(HISA)) as url:
        assert running.ask({"paper": url})["paper"]["model_path"] == "/m"
        with running.RunningServer(url, tmp_path / "log") as server:
            assert server.wait_ready(1) == 0 and server.url == url
            assert server.receipts() == [HISA] and server.exit_code() is None and server.tail() == ""
        assert running.ask({"paper": url}), "it runs on"
    with pytest.raises(ServerFailed, match="no server answers"):
        running.RunningServer(url, tmp_path / "log").wait_ready(1)
    with pytest.raises(ValueError, match="arm paper: no SGLang server answers"):
        running.ask({"paper": url})


def test_flags_are_those_that_say_how_to_measure() -> None:
    assert running.flags(info()) == ["--model-path", "/m"]
    more = {"hicache_storage_backend": "file", "enable_return_indexer_topk": True}
    assert running.flags({**info(), **more}) == [
        *("--model-path", "/m", "--enable-return-indexer-topk", "--hicache-storage-backend", "file")
    ]
