"""Load runs side by side: users within a limit, ratios, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_hisa.launch.cli import make_parser
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.load import compare
from sglang_hisa.launch.load.record import LoadRecord
from tests.launch.load.records import answer, make

STOCK = {1: 0.0128, 16: 0.0158, 64: 0.0255}
PAPER = {1: 0.0123, 16: 0.0134, 64: 0.0155, 128: 0.025}


def run(itl: dict[int, float], preset: str | None, slo: float = 0.02) -> dict[str, Any]:
    """The JSON of a record with these ITLs at steady state."""
    record = make({load: [answer(1.0, x)] * 20 for load, x in itl.items()}, slo={"itl": slo})
    for kept in record["points"]:
        load, x = kept["load"], itl[kept["load"]]
        kept["steady"] = {
            **{"at_once": load, "tokens": 100 * load, "window_s": 3.0, "share": 0.5, "tpot": x},
            **{"itl_p50": x, "itl_p99": 2 * x, "output_tok_s": load / x, "requests_s": load / x / 5},
        }
    record["server"]["receipt"] = preset and {"active": True, "preset": preset}
    return record


def both(slo: float = 0.02) -> list[LoadRecord]:
    return [read(LoadRecord, run(STOCK, None, slo)), read(LoadRecord, run(PAPER, "paper", slo))]


def test_users_lie_on_the_line_between_two_loads() -> None:
    """20 ms lie (20 - 15.8) / (25.5 - 15.8) of the way from 16 to 64."""
    assert compare.users(list(STOCK.items()), 0.02) == (pytest.approx(16 + 48 * 4.2 / 9.7), False)
    assert compare.users(list(PAPER.items()), 0.02) == (pytest.approx(64 + 64 * 4.5 / 9.5), False)
    assert compare.users(list(STOCK.items()), 0.03) == (64, True)
    assert compare.users(list(STOCK.items()), 0.0128) == (1, False)
    assert compare.users(list(STOCK.items()), 0.01) is None
    assert compare.users([(4, None)], 1) is None


def test_verdicts_say_the_ratio_and_when_it_is_a_bound() -> None:
    users, good = compare.verdicts(both())
    assert users == "users at ITL ≤ 20 ms, all of them decoding: stock 36.8, paper 94.3 (2.56×)"
    assert good.endswith("stock 16, paper 64 (4.00×)")
    assert compare.verdicts(both(0.0252))[0].endswith("stock 62.5, paper at least 128 (at least 2.05×)")
    assert compare.verdicts(both(0.03))[0].endswith("paper at least 128 (no ratio: both are bounds)")


def test_rows_have_ratios_to_the_first_run() -> None:
    rows = compare.rows(both())
    assert [row[:2] for row in rows] == [
        *(("1", "stock"), ("1", "paper"), ("16", "stock"), ("16", "paper"), ("64", "stock"), ("64", "paper")),
        ("128", "paper"),
    ]
    assert rows[4][2:4] == ("25.50", "2,510") and rows[5][2:4] == ("15.50 (1.65×)", "4,129 (1.65×)")
    assert rows[6][2:4] == ("25.00", "5,120"), "nothing to compare it with"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda r: r["plan"]["workload"].update(input_tokens=1), "what is sent differs"),
        (lambda r: r["plan"]["sweep"].update(kind="rate"), "the kind of load differs"),
        (lambda r: r["server"].update(model="/models/other"), "the model differs"),
        (lambda r: r["server"].update(version="0.5.23"), "SGLang differs"),
        (lambda r: r["provenance"].update(gpu="H100"), "the GPU differs"),
    ],
)
def test_other_loads_or_machines_are_not_compared(change: Any, why: str) -> None:
    other = run(PAPER, "paper")
    change(other)
    (found,) = compare.problems([read(LoadRecord, run(STOCK, None)), read(LoadRecord, other)])
    assert found.startswith(why)


def command(*words: str) -> int:
    args, rest = make_parser().parse_known_args(["load", *words])
    args.words, args.rest = list(words), rest
    return int(args.run(args))


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, record in (("a", run(STOCK, None)), ("b", run(PAPER, "paper")), ("c", run(PAPER, "paper"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(record))
    runs = [str(tmp_path / name) for name in "abc"]
    assert command("--compare", *runs, "--slo", "itl=18ms", "--out", str(tmp_path / "out")) == 0
    said = " ".join(capsys.readouterr().out.split())
    wanted = (
        "users at ITL ≤ 18 ms, all of them decoding: stock 26.9, paper 80.8 (3.01×), paper#2 80.8 (3.01×)"
    )
    assert wanted in said
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text().replace("\\", "")
        assert wanted in text and "15.50 (1.65×)" in text
    for words, why in ((runs[:1], "needs at least two runs"), ([*runs[:1], str(tmp_path)], "report.json")):
        with pytest.raises(SystemExit) as stop:
            command("--compare", *words)
        assert stop.value.code == 2 and why in capsys.readouterr().err
