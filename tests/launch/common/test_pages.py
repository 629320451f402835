"""Every report as HTML, Markdown, CSV and on a terminal: the same numbers, no dictionary, legends beside."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sglang_hisa.launch.ab import cell_tables
from sglang_hisa.launch.ab import plots as ab_plots
from sglang_hisa.launch.ab import report as ab_report
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.cli import main
from sglang_hisa.launch.common import figures
from sglang_hisa.launch.common.page import render
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.eval import plots as eval_plots
from sglang_hisa.launch.eval import report as eval_report
from sglang_hisa.launch.eval import stats
from sglang_hisa.launch.eval.record import EvalRecord
from sglang_hisa.launch.live import plots as live_plots
from sglang_hisa.launch.live import report as live_report
from sglang_hisa.launch.load import plots as load_plots
from sglang_hisa.launch.load import point_tables
from sglang_hisa.launch.load import report as load_report
from sglang_hisa.launch.load.record import LoadRecord
from tests.launch.ab import records as ab_records
from tests.launch.live import records as live_records
from tests.launch.load import records as load_records

RESULTS = Path(__file__).parents[3] / "launch" / "results"


def evaluation() -> EvalRecord:
    """The kept answers of six arms, with a name that HTML, Markdown and TeX would take for their own."""
    text = json.dumps(json.loads((RESULTS / "quality.json").read_text()))
    record = read(EvalRecord, json.loads(text.replace('"block-sparse"', '"<b>$x_1$|y"')))
    return replace(record, rows=stats.rows(record.answers, "stock"))


def load_record() -> LoadRecord:
    points = {1: [load_records.answer(0.5)] * 4, 2: [load_records.answer(1.0)] * 8}
    receipt = {"active": True, "preset": "paper", "changed": ["audit"], "config": {"audit": 0.1}}
    record = load_records.make(points)
    record["server"]["receipt"] = receipt
    return read(LoadRecord, record)


def comparison() -> AbRecord:
    return ab_records.typed(ab_records.make({"stock": 1.0, "paper": 1.5}))


def write_live(folder: Path) -> None:
    record, lines = live_records.typed(*live_records.make())
    record.save(folder)
    for line in lines:
        live_report.append(line, folder)
    live_report.write(record, folder, folder)


WRITE: dict[str, Callable[[Path], object]] = {
    "ab": lambda folder: ab_report.write(comparison(), folder),
    "load": lambda folder: load_report.write(load_record(), folder),
    "eval": lambda folder: eval_report.write(evaluation(), folder),
    "live": write_live,
}


@pytest.mark.parametrize("name", WRITE)
def test_pages_are_whole_and_show_no_dictionary(name: str, tmp_path: Path) -> None:
    WRITE[name](tmp_path)
    page = (tmp_path / "report.html").read_text()
    seen = unescape(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(style|pre)>.*?</\1>", "", page)))
    assert not re.search(r"\{'|': |None|nan\b", seen), "a Python value in a page"
    assert "prefers-color-scheme: dark" in page and "initial-scale=1" in page
    assert page.count("data:image/png;base64") >= 1 and "No plots" not in page
    assert (tmp_path / "report.md").read_text().count("| --- ") >= 1
    if name == "load":
        assert "HISA paper (changed: audit)" in seen


@pytest.mark.parametrize("name", WRITE)
def test_rows_as_csv(name: str, tmp_path: Path) -> None:
    WRITE[name](tmp_path)
    with (tmp_path / ("windows.csv" if name == "live" else "report.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    if name == "eval":
        kept = evaluation().rows
        assert [(r["arm"], r["task"], int(r["context"])) for r in rows] == [
            (r.arm, r.task, r.context) for r in kept
        ]
        assert [float(r["accuracy"]) for r in rows] == [r.accuracy for r in kept]
    elif name == "live":
        assert len(rows) == 11, "a window of an arm that gave no answer has no row"
        assert {r["arm"] for r in rows} == {"stock", "balanced"} and float(rows[0]["ended_s"]) == 10
    elif name == "load":
        assert [float(r["load"]) for r in rows] == [1, 2] and float(rows[1]["ttft_p50"]) == 1.0
    else:
        assert {r["metric"] for r in rows} == {"ttft", "itl", "tpot", "output_throughput"}
    assert not any("{" in value for row in rows for value in row.values())


def test_live_as_html_and_markdown_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_live(tmp_path)
    page, text = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    for part in ("1,900 ms", "no verdict", "balanced 1 of 10", "NVIDIA H200", "66.7%"):
        assert part in page and part in text, part
    for made in ("report.html", "report.md", "windows.csv"):
        (tmp_path / made).unlink()
    assert main(["ab", "--live", "--from", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == page
    assert "report.html" in capsys.readouterr().out


def test_a_live_run_without_a_window(tmp_path: Path) -> None:
    record, _ = live_records.make(0, complete=False, seconds=None, stopped_by="refused", refusals=["why"])
    for arm in record["arms"].values():
        arm["totals"] = None
    live_report.write(live_records.typed(record, [])[0], tmp_path, tmp_path)
    assert "REFUSED: why" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("width", [80, 120])
def test_terminals(width: int) -> None:
    shown = {
        "ab": lambda c: cell_tables.print_report(comparison(), c),
        "load": lambda c: point_tables.print_report(load_record(), c),
        "eval": lambda c: eval_report.print_report(evaluation(), c),
        "live": lambda c: live_report.print_report(live_records.typed(*live_records.make())[0], c),
    }
    for name, show in shown.items():
        console = Console(file=io.StringIO(), width=width)
        show(console)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= width, name
        assert "…" not in text, f"{name}: something is cut off"


def test_legends_cover_no_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every legend lies outside of every panel, and every line that is drawn has a name in it."""
    seen = []

    def look(figure: Any) -> bytes:
        figure.canvas.draw()
        drawer = figure.canvas.get_renderer()
        assert not any(axis.get_legend() for axis in figure.axes)
        named = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
        for axis in figure.axes:
            for legend in figure.legends:
                assert not legend.get_window_extent(drawer).overlaps(axis.get_window_extent(drawer))
            labels = axis.get_legend_handles_labels()[1]
            assert set(labels) <= named
            assert len(axis.containers) + len(axis.lines) == 0 or labels
        seen.append(named)
        figures.pyplot().close(figure)
        return b"x"

    for module in (ab_plots, load_plots):
        monkeypatch.setattr(module, "png", look)
    monkeypatch.setattr(figures, "png", look)
    ab_plots.draw(ab_report.complete(comparison()))
    load_plots.draw(load_record())
    eval_plots.draw(evaluation())
    live_plots.draw(*live_records.typed(*live_records.make()))
    assert len(seen) == 8 and sum(bool(names) for names in seen) == 6  # the two maps have a colour bar


def test_fields_are_escaped() -> None:
    page = render("<p>{{ text }}</p>", {}, title="<i>", text="<script>")
    assert "&lt;script&gt;" in page and "&lt;i&gt;" in page
