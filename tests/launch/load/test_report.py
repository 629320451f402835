"""The report of a load record says what the record says, in every form."""

import io
import json
import re
import sys

import matplotlib.image
import pytest
from rich.console import Console

from sglang_hisa.launch.cli import main
from sglang_hisa.launch.common.typed import read
from sglang_hisa.launch.load import point_tables, report
from sglang_hisa.launch.load.record import LoadRecord
from tests.launch.load.records import answer, make


def terminal(record):
    console = Console(file=io.StringIO(), width=200)
    point_tables.print_report(read(LoadRecord, record), console)
    return console.file.getvalue()


def forms(record, folder):
    report.write(read(LoadRecord, record), folder)
    page = (folder / "report.html").read_text()
    return terminal(record), (folder / "report.md").read_text().replace("\\", ""), page


def points(*goods):
    return {2**i: [answer(1.5)] * good + [answer(3.25)] * (10 - good) for i, good in enumerate(goods)}


def test_every_form_names_the_knee_and_the_limits(tmp_path):
    for text in forms(make(points(10, 9, 5)), tmp_path):
        assert "Knee: 2 at once, the highest measured load at which at least 90% of the requests met" in text
        assert "TTFT ≤ 2 s, ITL ≤ 0.05 s" in text and "2 (knee)" in text and "TTFT 50%" in text
        assert "1,500 / 3,250" in text and "123,456 KV tokens" in text and "stock" in text
        assert "p99 is then the slowest" in text and "PARTIAL" not in text
    kept = json.loads((tmp_path / "report.json").read_text())
    assert kept["kind"] == "hisa-load" and kept["schema_version"] == 1 and kept["stats"]["knee"] == 2
    assert not re.search(r'(src|href)="(?!data:)', (tmp_path / "report.html").read_text())


def test_knee_at_the_end_nowhere_and_without_limits():
    assert "Knee: at least 2 at once, the highest load measured" in terminal(make(points(10, 10)))
    assert "Knee: 2 at once" in terminal(make(points(10, 10), complete=False))
    assert "No knee: at no measured load at least 90%" in terminal(make(points(3)))
    assert "No knee: no limits were given" in terminal(make(points(10), slo={}))


def test_what_went_wrong_comes_first(tmp_path):
    bad = answer(None, error="Traceback\nServerDisconnectedError")
    given = make({1: [answer(1.5)] * 9 + [bad], 2: [answer(1.5, input=9500)]})
    given |= {"complete": False, "stopped_by": "interrupt"}
    given["plan"]["sweep"]["loads"] = [1, 2, 4]
    given["points"][1]["retractions"] = 3
    for text in forms(given, tmp_path):
        assert "PARTIAL (interrupt): 2 of 3 loads" in text
        assert "At 1 at once: 1 of 10 requests failed (ServerDisconnectedError)" in text
        assert "At 2 at once: 3 retractions" in text
        assert "At 2 at once: prompts of 9500 to 9500 tokens, not 8192" in text
        seen = text.partition("<body>")[2] or text
        assert seen.index("PARTIAL") < seen.index("123,456")


def test_a_worse_load_below_the_knee_is_said():
    assert "At 2 at once: fewer good requests than at the higher knee" in terminal(make(points(10, 5, 9)))


def test_conversations_and_rates_are_named():
    assert "Knee: at least 1 conversations a second" in terminal(make(points(10), kind="rate", turns=3))


def test_plots_show_lines_and_the_page_holds_them(tmp_path):
    report.write(read(LoadRecord, make(points(10, 9, 5))), tmp_path)
    for name in ("ttft.png", "throughput.png"):
        rgb = matplotlib.image.imread(tmp_path / name)[..., :3]
        assert int(((rgb.max(-1) - rgb.min(-1)) > 0.2).sum()) > 500
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64") == 2


@pytest.mark.parametrize("given", [make({}), make(points(0), slo={}), make({1: [answer(None, error="x")]})])
def test_a_record_with_little_in_it_is_reported(given, tmp_path):
    given["plan"]["sweep"]["loads"] = [1]
    assert ("No knee" if given["points"] else "No load was measured") in terminal(given)
    report.write(read(LoadRecord, given), tmp_path)


def test_without_matplotlib_the_page_says_that_plots_are_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report.write(read(LoadRecord, make(points(10))), tmp_path)
    assert "matplotlib is missing" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.glob("*.png"))


def test_hostile_text_is_shown_as_text(tmp_path):
    evil = "<script>alert('$x$')</script>|[red]"
    given = make({1: [answer(None, error=evil)] + [answer(1)] * 9})
    given |= {"log_tail": evil, "stopped_by": evil, "complete": False}
    given["server"] |= {"model": evil, "version": evil}
    for text in forms(given, tmp_path)[1:]:
        assert "<script" not in text
    assert evil in terminal(given)


def test_from_renders_again_under_other_limits(tmp_path, capsys):
    report.write(read(LoadRecord, make(points(10, 5))), tmp_path)
    assert main(["load", "--from", str(tmp_path), "--slo", "ttft=4", "--out", str(tmp_path / "new")]) == 0
    assert "at least 2 at once" in " ".join(capsys.readouterr().out.split())
    assert report.load(tmp_path / "new").slo == {"ttft": 4.0}
    (tmp_path / "report.json").write_text('{"kind": "hisa-ab", "schema_version": 1}')
    with pytest.raises(SystemExit) as stop:
        main(["load", "--from", str(tmp_path)])
    assert stop.value.code == 2 and "hisa-load" in capsys.readouterr().err


def test_a_rate_is_shown_as_asked_and_as_it_came(tmp_path):
    given = make({0.5: [answer(1.5)] * 10, 2: [answer(1.5)] * 10}, kind="rate")
    given["points"][0]["arrived"], given["points"][1]["arrived"] = 1.03, 2.1
    for text in forms(given, tmp_path):
        assert "arrived" in text and "1.03" in text and "2.10" in text
        assert "At 0.5 a second: 1.03 arrived" in text and "At 2 a second: " not in text
        assert "Knee: at least 2 a second asked, 2.10 arrived" in text
    older = make({0.5: [answer(1.5)] * 10}, kind="rate")
    assert "0.5 a second asked, – arrived" in terminal(older)


def test_with_no_point_measured_there_is_no_word_of_a_knee(tmp_path):
    given = make({}, complete=False, stopped_by="interrupt")
    given["plan"]["sweep"]["loads"] = [1, 2]
    for text in forms(given, tmp_path):
        assert "No load was measured." in text and "No knee" not in text


def test_a_server_that_pruned_nothing_is_named(tmp_path):
    one = {"rows": 3, "context_tokens": 900, "candidate_tokens": 900}
    given = make(points(10), rows=[{"prefill": one, "decode": one}])
    for text in forms(given, tmp_path):
        assert "the server pruned nothing: its rows fit their budgets" in text
    pruned = {**one, "candidate_tokens": 300}
    assert "pruned nothing" not in terminal(make(points(10), rows=[{"prefill": pruned, "decode": one}]))
