"""The stress runner's bookkeeping, on servers that are not there: what is wrong shows and ends in exit 1."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sglang_hisa.launch.acceptance.stress import scenes, session
from sglang_hisa.launch.acceptance.stress.__main__ import _setting, _with_delays, main
from sglang_hisa.launch.acceptance.stress.record import StressRow
from sglang_hisa.launch.common.rows import RowRecord
from sglang_hisa.launch.common.server import ServerFailed


class Server:
    """Answers every request at once; has ``wrong`` violations, and ``dies`` after so many requests."""

    started: ClassVar[list[dict[str, str]]] = []
    wrong, dies, tokens, active = 0, 10**9, None, True

    def __init__(self, flags: Any, *, env: dict[str, str], log: Path) -> None:
        self.log, self.asked, self.seen, self.paths = log, 0, 0, []
        self.hisa = bool(env["HISA"])
        log.write_text("#retracted_reqs: 2\n")
        Server.started.append(env)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait_ready(self, timeout: float) -> None:
        pass

    def exit_code(self) -> int:
        return -9

    def tail(self, lines: int) -> str:
        return "the end"

    def flush_cache(self) -> None:
        self.paths.append("/flush_cache")

    def request(self, path: str, body: dict[str, Any]) -> None:
        self.paths.append(path)

    def generate(self, prompt: list[int], count: int = 16, **fields: Any) -> dict[str, Any]:
        self.asked += 1
        if self.asked > self.dies:
            raise ConnectionResetError("gone")
        assert prompt and all(3 <= token < 256 for token in prompt)
        kind = "abort" if "rid" in fields else "length"
        cached = 0 if self.paths[-1:] == ["/flush_cache"] else 64
        meta = {"cached_tokens": cached, "finish_reason": {"type": kind}, "prompt_tokens": len(prompt)}
        row = [(-0.1, 5), (-3.0, 7)]
        meta |= {"input_top_logprobs": [None, row], "output_top_logprobs": [row]}
        return {"output_ids": [1] * (self.tokens or count), "meta_info": meta}

    def receipts(self) -> list[dict[str, Any] | None]:
        if not self.hisa:
            return [None]
        self.seen += 1
        wrong = self.wrong if self.seen > 2 else 0
        first = "page 7" if wrong else None
        canary = {"checks": 100 * self.seen, "violations": wrong, "first": first}
        rebuilt = {"hicache_load": 5 * self.seen, "pd_receive": 2}
        return [{"active": self.active, "canary": canary, "summary_rebuilds": rebuilt}]


def _stress(folder: Path, arms: dict[str, str | None], monkeypatch: pytest.MonkeyPatch, **server: Any) -> Any:
    kind = type("Other", (Server,), server)
    Server.started = []
    monkeypatch.setattr(session, "ServerProcess", kind)
    record = RowRecord(folder / "stress.json", "stress", StressRow, key="id")
    told: list[str] = []
    load = scenes.Load(longest=300, at_once=3)
    given = {"flags": [], "make_env": lambda setting: {"HISA": setting or ""}, "arms": arms, "load": load}
    given |= {"seconds": 0.0, "logs": folder, "model": "tiny", "record": record, "tell": told.append}
    return session.Stress(**given), told


def test_every_scene_is_a_row_and_nothing_wrong_is_exit_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stress, told = _stress(tmp_path, {"paper": "{}", "stock": None}, monkeypatch)
    assert stress.play(list(scenes.SCENES)) == 0
    rows = json.loads((tmp_path / "stress.json").read_text())["rows"]
    assert [(r["arm"], r["test"]) for r in rows] == [
        (arm, name) for arm in ("paper", "stock") for name in scenes.SCENES
    ]
    assert [r["requests"] for r in rows[:5]] == [9, 6, 3, 3, 9]
    seen = [(r["canary_pages_checked"], r["pages_rebuilt"], r["rounds"]) for r in rows]
    assert seen == [(100, 5, 1)] * 5 + [(0, 0, 1)] * 5, "stock has no canary"
    assert rows[1]["facts"] == rows[1]["means"] == {"aborted": 3} and rows[3]["facts"]["kl_warm_cold"] == 0
    assert Server.started == [
        {"HISA": "{}"},
        {"HISA": "{}", **scenes.RETRACT},
        {"HISA": ""},
        {"HISA": "", **scenes.RETRACT},
    ]
    assert any("summaries checked, 0 wrong" in line for line in told)


@pytest.mark.parametrize(
    ("server", "field"),
    [({"wrong": 3}, "violations"), ({"dies": 4}, "crashes"), ({"tokens": 2}, "problems")],
    ids=["a wrong summary", "a dead server", "half an answer"],
)
def test_what_is_wrong_is_told_and_ends_in_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: dict[str, Any], field: str
) -> None:
    stress, told = _stress(tmp_path, {"paper": "{}"}, monkeypatch, **server)
    assert stress.play(["radix", "pause"]) == 1
    first = json.loads((tmp_path / "stress.json").read_text())["rows"][0]
    assert first[field]
    if field == "violations":
        assert first["first_violation"] == "page 7"
    if field == "crashes":
        assert "exit code -9" in first["problems"][0] and any("the end" in line for line in told)
        assert len(Server.started) == 2, "the next scene has a new server"


def test_a_second_call_adds_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        stress, _ = _stress(tmp_path, {"paper": "{}"}, monkeypatch)
        stress.play(["warm"])
    record = json.loads((tmp_path / "stress.json").read_text())
    assert len(record["rows"]) == 2 and record["commands"] == ["stress", "stress"]


def test_an_arm_that_serves_something_else_is_not_stressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stress, _ = _stress(tmp_path, {"paper": "{}"}, monkeypatch, active=False)
    with pytest.raises(ServerFailed, match="arm paper: the receipt says that HISA is not active"):
        stress.play(["radix"])
    assert json.loads((tmp_path / "stress.json").read_text())["rows"] == []


def test_settings_of_arms() -> None:
    assert _setting("stock", "full") is None
    pruned = {"stock_decode_graphs": False}
    assert json.loads(_setting("paper", "sample") or "") == {"preset": "paper", "canary": "sample", **pruned}
    given = json.loads(_setting('{"block": 64, "canary": "full"}', "sample") or "")
    assert given == {"block": 64, "canary": "full", **pruned}
    stops = json.loads(_setting('{"canary_stop": true}', "full") or "")
    assert stops == {"canary": "full", "canary_stop": True, **pruned}, (
        "what needs the canary is judged with it"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--jitter", "2.5"], "--jitter needs --plugin DIR"),
        (["--jitter", "2.5", "--plugin", "tests/plugins"], "--jitter needs --plugin DIR"),
        *((["--jitter", wrong], "argument --jitter: invalid") for wrong in ("", "soon", "-1", "nan", "1001")),
    ],
)
def test_delays_that_could_not_be_made_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["--cpu", "--out", str(tmp_path / "r.json"), *words])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("others", [None, "/somewhere/else"])
def test_a_server_finds_the_plugin_that_delays(others: str | None) -> None:
    base = {"HOME": "/"} | ({"PYTHONPATH": others} if others else {})
    env = _with_delays(base, Path("tests/plugins/jitter"), 2.5)
    *before, plugin = env.pop("PYTHONPATH").split(os.pathsep)
    assert before == ([others] if others else []) and env == {"HOME": "/", "JITTER_MS": "2.5"}
    (entry,) = Path(plugin).glob("*.dist-info/entry_points.txt")
    module, function = entry.read_text().split(" = ")[1].strip().split(":")
    assert f"def {function}(" in (Path(plugin) / f"{module}.py").read_text()
