"""An A/B says where stock DSA scored in pieces for want of memory: its speed-ups are larger than a user's."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from sglang_hisa.launch.ab import cell_tables, report, resume, scoring
from sglang_hisa.launch.ab.plan import parse_cells
from sglang_hisa.launch.ab.record import AbRecord, ArmFacts, Scoring
from sglang_hisa.launch.ab.runner import Runner
from sglang_hisa.launch.common.arms import Arm, parse_arm
from sglang_hisa.launch.common.typed import as_json, read
from tests.launch.ab.records import make, typed

H200 = 143771 << 20
STOCK = Arm("stock", None)
CELLS = parse_cells("8k:1,4 128k:1 128k+64:64", 64, 1)
INFO = {
    **{"device": "cuda", "tp_size": 1, "pp_size": 1, "dp_size": 1, "enable_dp_attention": False},
    **{"mem_fraction_static": 0.95, "chunked_prefill_size": 8192, "max_prefill_tokens": 16384},
    **{"base_gpu_id": 0, "gpu_id_step": 1},
}
FOUND = Scoring(
    rows=8192,
    context=131072,
    needed_bytes=4294967296,
    allowed_bytes=1507548200,
    mem_fraction_static=0.95,
    pieces=3,
    default_pieces=2,
)
"""The case of test_score_budget.py. By default 9 % are left, of which a fifth is 5175 rows: 2 pieces."""


def ask(
    arm: Arm = STOCK, free: int | None = H200, cells: Any = CELLS, alone: bool = True, **more: Any
) -> Scoring | None:
    memory = scoring.Memory(H200, free)
    return scoring.of_arm(arm, cells, {**INFO, **more}, memory, {}, alone=alone)


def test_a_large_fraction_makes_stock_score_in_pieces() -> None:
    found = ask()
    assert found is not None and abs(found.allowed_bytes - FOUND.allowed_bytes) <= 2
    assert replace(found, allowed_bytes=FOUND.allowed_bytes) == FOUND
    assert ask(free=None) == found, "free memory that is not known"
    fits = ask(mem_fraction_static=0.85)  # a fifth of 15 % is 4.5 GB
    assert fits is not None and fits.pieces == fits.default_pieces == 1
    some = ask(mem_fraction_static=0.9)  # 3.0 GB, 5750 rows; not above SGLang's default
    assert some is not None and some.pieces == some.default_pieces == 2


def test_other_servers_take_the_memory() -> None:
    found = ask(free=13 << 29, alone=False, mem_fraction_static=0.85)
    assert found is not None and found.free_bytes == 13 << 29 and found.allowed_bytes == 1395864371
    assert (found.pieces, found.default_pieces) == (4, 2)


def test_arms_and_cells_that_it_does_not_concern() -> None:
    assert ask(parse_arm("balanced")) is None and ask(parse_arm("mine=paper:decode_tokens=4096")) is None
    assert ask(parse_arm("decode-only")) == ask(), "its prefill is stock DSA's"
    assert ask(cells=parse_cells("128k+64:64", 64, 1)) is None, "TTFT is not shown"
    assert scoring.of_arm(STOCK, CELLS, INFO, None, {}, alone=True) is None


@pytest.mark.parametrize(
    ("cells", "chunk", "rows", "context"),
    [
        ("8k:1 100k:1", 8192, 8192, 102400),
        ("1000:7", 8192, 7000, 7000),
        ("1000:9 5k:1", 8192, 8000, 8000),
        ("6001:3", 8192, 6001, 6001),
        ("9001:2", -1, 9001, 9001),
        ("128k+64:8", 8192, 0, 0),
    ],
)
def test_the_chunk_with_the_most_scores(cells: str, chunk: int, rows: int, context: int) -> None:
    assert scoring.longest_chunk(parse_cells(cells, 8, 1), chunk) == (rows, context)


def test_memory_of_the_servers_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    answers = iter(["143771, 9000\n143770, 12000", "[N/A], [N/A]", "", "81559, 3"])

    def said(*command: str) -> str | None:
        asked.append(command)
        return next(answers)

    monkeypatch.setattr(scoring, "output", said)
    env = {"CUDA_VISIBLE_DEVICES": "4,5,6,GPU-a"}
    two = {**INFO, "tp_size": 2, "base_gpu_id": 1, "gpu_id_step": 2}
    assert scoring.gpu_memory(two, env) == scoring.Memory(143770 << 20, 9000 << 20)
    assert asked[0][:3] == ("nvidia-smi", "--id=5,GPU-a", "--query-gpu=memory.total,memory.free")
    assert scoring.gpu_memory(INFO, env) is None and scoring.gpu_memory(INFO, env) is None
    replicas = {**INFO, "dp_size": 3}
    assert scoring.gpu_memory(replicas, env) == scoring.Memory(81559 << 20, 3 << 20)
    assert asked[-1][1] == "--id=4,5,6"
    assert scoring.gpu_memory({**INFO, "device": "cpu"}, env) is None
    assert scoring.gpu_memory(INFO, {"CUDA_VISIBLE_DEVICES": ""}) is None and len(asked) == 4


def test_the_note_says_what_avoids_it() -> None:
    assert scoring.note("stock", FOUND, together=True) == (
        "arm stock scores prefill chunks of 8,192 × 131,072 tokens in at least 3 pieces: the scores take "
        "4.3 GB, and 1.5 GB are allowed at --mem-fraction-static 0.95. Its TTFT is longer than with SGLang's "
        "default fraction and alone on this GPU (about 2 pieces). What avoids it: a smaller "
        "--mem-fraction-static or --chunked-prefill-size."
    )
    crowded = replace(FOUND, free_bytes=13 << 29, allowed_bytes=1395864371, pieces=4, default_pieces=1)
    said = scoring.note("stock", crowded, together=True) or ""
    assert "4 pieces: the scores take 4.3 GB, and 1.4 GB are allowed with 7.0 GB of GPU memory free. " in said
    ways = "a smaller --max-total-tokens or --chunked-prefill-size, or no --together."
    assert said.endswith(f"(about one piece). What avoids it: {ways}")
    same = scoring.note("stock", replace(FOUND, default_pieces=3), together=False) or ""
    assert "in at least 3 pieces" in same and "longer" not in same
    assert same.endswith("SGLang's default fraction would make about as many, alone on this GPU.")
    assert scoring.note("stock", replace(FOUND, pieces=1), together=True) is None
    assert scoring.note("stock", None, together=True) is None


def test_every_report_has_the_note_and_the_record_keeps_it(tmp_path: Path) -> None:
    kept = make({"stock": 1, "paper": 1.5})
    assert "pieces" not in shown(typed(kept)), "a record that was made before there was the field"
    kept["arms"]["stock"]["scoring"] = as_json(FOUND)
    record = typed(kept)
    assert record.arms["stock"].scoring == FOUND and record.arms["paper"].scoring is None
    report.write(record, tmp_path)
    assert AbRecord.load(tmp_path).arms["stock"].scoring == FOUND
    assert json.loads((tmp_path / "report.json").read_text())["arms"]["stock"]["scoring"]["pieces"] == 3
    note = scoring.note("stock", FOUND, together=False) or "?"
    assert max(map(len, shown(record).splitlines())) <= 80
    forms = [shown(record), *((tmp_path / name).read_text() for name in ("report.md", "report.html"))]
    for form in forms:
        assert note in " ".join(form.replace("\\", "").replace("&#39;", "'").split())
    assert "faster" in forms[1], "it is no refusal"
    assert read(ArmFacts, as_json(record.arms["stock"])) == record.arms["stock"]


def shown(record: AbRecord) -> str:
    console = Console(file=io.StringIO(), width=80)
    cell_tables.print_report(record, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def runner(told: list[str], urls: dict[str, str] | None = None) -> Any:
    return SimpleNamespace(
        **{"_infos": {"stock": INFO}, "make_env": lambda setting: {}, "urls": urls},
        plan=SimpleNamespace(cells=CELLS, together=False),
        record=SimpleNamespace(arms={"stock": ArmFacts()}),
        tell=told.append,
    )


def test_of_several_starts_the_worst_is_kept_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([H200, H200, 13 << 29, H200])
    monkeypatch.setattr(scoring, "gpu_memory", lambda info, env: scoring.Memory(H200, next(free)))
    told: list[str] = []
    mine = runner(told)
    for pieces in (3, 3, 4, 4):
        Runner._scores(mine, STOCK)
        assert mine.record.arms["stock"].scoring.pieces == pieces
    assert ["in at least 3" in told[0], "in at least 4" in told[1], len(told)] == [True, True, 2]


def test_of_servers_that_already_ran_the_free_memory_is_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "gpu_memory", lambda info, env: scoring.Memory(H200, 1))
    mine = runner([], urls={})
    Runner._scores(mine, STOCK)
    assert mine.record.arms["stock"].scoring == ask()


def test_a_run_that_goes_on_keeps_what_was_found() -> None:
    kept = make({"stock": 1, "paper": 1.5})
    new = typed(kept)
    kept["arms"]["stock"]["scoring"] = as_json(FOUND)
    assert resume.arms(typed(kept), new)["stock"].scoring == FOUND
