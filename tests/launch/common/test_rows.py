"""Records that calls add to: nothing is lost, whoever else writes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sglang_hisa.launch.common.record import Row
from sglang_hisa.launch.common.rows import RowRecord


@dataclass(frozen=True, kw_only=True)
class Seen(Row):
    name: str
    seen: int


_CALL = """
import sys
from pathlib import Path
from sglang_hisa.launch.common.rows import RowRecord
from tests.launch.common.test_rows import Seen
record = RowRecord(Path(sys.argv[1]), sys.argv[2], Seen, key="name")
for i in range(30):
    record.put(Seen(name=f"{sys.argv[2]}-{i % 10}", seen=i))
"""


def test_calls_at_the_same_time_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    calls = [subprocess.Popen([sys.executable, "-c", _CALL, str(path), name]) for name in "abc"]
    assert [call.wait(120) for call in calls] == [0, 0, 0]
    record = json.loads(path.read_text())
    assert sorted(record["commands"]) == ["a", "b", "c"] and record["provenance"]["python"]
    newest = {f"{name}-{i}": 20 + i for name in "abc" for i in range(10)}
    assert {row["name"]: row["seen"] for row in record["rows"]} == newest and len(record["rows"]) == 30
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]


def test_a_row_takes_the_place_of_the_one_of_its_name(tmp_path: Path) -> None:
    record = RowRecord(tmp_path / "deep" / "record.json", "call", Seen, key="name")
    for name, seen in (("one", 1), ("two", 2), ("one", 3)):
        record.put(Seen(name=name, seen=seen))
    assert record.rows() == [Seen(name="one", seen=3), Seen(name="two", seen=2)]
