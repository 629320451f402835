"""launch/results: the index says what the folder holds, and records of `hisa ab` come in flat."""

import json
import re
import shutil

import pytest

from sglang_hisa.launch.ab import report
from sglang_hisa.launch.cli import main as hisa
from sglang_hisa.launch.pages import results
from sglang_hisa.launch.pages.results import INDEX, RESULTS, SHOWS
from tests.launch.ab.records import make, typed

COMMAND = (
    "/tmp/site/launch/cli/__main__.py ab --arms stock,odd --arm 'odd={\"audit\": 0.5}' "
    "--out /tmp/x/y out/model-tiny --budgets L/4"
)
TO_COME = {"coverage-h200-0.5.23.json", "stress-h200-0.5.23.json"}
TYPED = "hisa ab --arms stock,odd --arm 'odd={\"audit\": 0.5}' --out y model-tiny --budgets L/4"


def lines(folder):
    """Cells of the index by the first file that a line links, and all files linked."""
    rows = [row.strip("|").split(" | ") for row in (folder / INDEX).read_text().splitlines() if "](" in row]
    rows = [row for row in rows if len(row) == 7]
    found = [re.findall(r"\]\(([^)]+)\)", row[0]) for row in rows]
    return {files[0]: row for files, row in zip(found, rows)}, [file for files in found for file in files]


@pytest.fixture
def record():
    made = make({"stock": 1, "odd": 1.5}, rounds=3)
    made["provenance"] |= {"gpu": "NVIDIA H200", "commit": "abc123", "command": COMMAND}
    made["provenance"] |= {"torch": "2.11.0", "driver": None}
    return {**made, "model": "out/model-tiny", "flags": ["--tp", "2"]}


@pytest.fixture
def folder(tmp_path):
    """A folder of results with one record and its plot."""
    at = tmp_path / "results"
    at.mkdir()
    for name in ("recall.json", "recall.png"):
        shutil.copy(RESULTS / name, at / name)
    assert results.main([], at) == 0
    return at


@pytest.fixture
def measured(tmp_path, record):
    """What `hisa ab --out` leaves of a run that was killed before its report, and a note of ours."""
    run = tmp_path / "ab-odd"
    typed(record).save(run)
    (run / "first-prompts.txt").write_text("waited 3 s\n")
    (run / "server-odd.log").write_text("long\n")
    return run


def test_the_index_is_that_of_the_folder():
    assert results.main(["--check"]) == 0, "run python -m sglang_hisa.launch.pages.results"
    rows, linked = lines(RESULTS)
    assert sorted([*linked, INDEX]) == sorted(path.name for path in RESULTS.iterdir())
    made = {name for name in rows if not name.startswith("ab-")}
    assert made <= set(SHOWS) and set(SHOWS) - made <= TO_COME
    assert all((RESULTS / page).exists() for page in re.findall(r"\]\((\.\.[^)#]+)", results.ABOUT))
    for name, row in rows.items():
        text = (RESULTS / name).read_text()
        where = json.loads(text if name.endswith("json") else text.splitlines()[0])
        where = where.get("provenance", where)
        assert (where["gpu"] or "CPU").removeprefix("NVIDIA ").split()[0] in row[2]
        assert (row[3], row[5]) == (where["sglang"], where["date"][:10])
        assert not re.search(r"/tmp|/work|/root|__main__|\.py", row[6])


def test_a_measured_folder_becomes_a_flat_record(folder, measured, record):
    assert results.main(["--check"], folder) == 0
    assert results.main(["add", str(measured)], folder) == 0
    assert {path.name for path in folder.iterdir()} == {
        *("recall.json", "recall.png", INDEX, "ab-odd.json", "ab-odd.first-prompts.txt")
    }
    report.write(typed(record), measured)
    assert (folder / "ab-odd.json").read_text() == (measured / "report.json").read_text()
    row = lines(folder)[0]["ab-odd.json"]
    assert row[0].endswith(", [first prompts](ab-odd.first-prompts.txt)")
    assert row[1] == "`odd` against `stock` on `tiny`, TP 2: 8K × 1/3, 30001 × 1; 3 rounds"
    assert row[2:6] == ["H200", "0.5.17", "abc123", "2026-02-03"] and row[6].strip() == f"`{TYPED}`"


def test_times_of_thousands_of_tokens_are_left_out_and_nothing_else(folder, tmp_path):
    kept = json.loads((RESULTS / "ab-many.json").read_text())
    (tmp_path / "ab-many").mkdir()
    whole = {**kept, "measurements": [{**one, "itl_s": [0.01] * 99} for one in kept["measurements"]]}
    (tmp_path / "ab-many" / "report.json").write_text(json.dumps(whole))
    results.add(tmp_path / "ab-many", folder)
    assert json.loads((folder / "ab-many.json").read_text()) == kept
    shown = [c for c in kept["stats"]["comparisons"] if c["metric"] == "steady_itl" and c["speedup"]]
    assert len(shown) == 8, "four loads, two arms"


def test_a_newer_record_takes_the_place_of_the_older_and_its_notes(folder, measured, record):
    results.main(["add", str(measured)], folder)
    (measured / "first-prompts.txt").unlink()
    typed({**record, "complete": False}).save(measured)
    results.main(["add", str(measured)], folder)
    assert {path.name for path in folder.glob("ab-*")} == {"ab-odd.json"}
    assert lines(folder)[0]["ab-odd.json"][1].endswith("3 rounds, cut off")


def test_a_folder_that_the_index_does_not_tell_is_noticed(folder, measured, capsys):
    results.add(measured, folder)
    assert results.main(["--check"], folder) == 1
    results.main([], folder)
    (folder / "ab-odd.first-prompts.txt").unlink()
    assert results.main(["--check"], folder) == 1
    (folder / "notes.txt").write_text("whose?\n")
    with pytest.raises(SystemExit):
        results.main(["--check"], folder)
    assert "notes.txt; name it RECORD.notes.txt" in capsys.readouterr().err
    (folder / "notes.txt").rename(folder / "new.json")
    (folder / "new.json").write_text((folder / "recall.json").read_text())
    with pytest.raises(SystemExit):
        results.main([], folder)
    assert "new.json: say in SHOWS" in capsys.readouterr().err


@pytest.mark.parametrize("name,content,said", [("odd", "", "start with ab-"), ("ab-x", "{}", "hisa-ab")])
def test_what_is_no_record_of_hisa_ab_is_refused(folder, tmp_path, capsys, name, content, said):
    (tmp_path / name).mkdir()
    (tmp_path / name / "report.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        results.main(["add", str(tmp_path / name)], folder)
    assert stop.value.code == 2 and said in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"recall.json", "recall.png", INDEX}


def test_commands_as_they_are_typed():
    assert results.again("/x/launch/acceptance/__main__.py --out /tmp/a.json") == (
        "python -m sglang_hisa.launch.acceptance --out a.json"
    )
    assert results.again("/work/launch/research/recall.py launch/research/retriever --out ../r.json") == (
        "python -m sglang_hisa.launch.research.recall launch/research/retriever --out r.json"
    )
    assert results.again("/c/tests/history/long.py --steps 9") == "python -m tests.history.long --steps 9"
    assert (
        results.again("/opt/bin/hisa eval /c/launch/research/retriever")
        == "hisa eval launch/research/retriever"
    )
    assert results.again("python -m pytest -m gpu tests/kernels") == "python -m pytest -m gpu tests/kernels"
    with pytest.raises(ValueError, match="no module"):
        results.again("-c")


def test_a_kept_file_is_rendered_into_another_folder(tmp_path, capsys):
    kept, out = RESULTS / "ab-v32-tp8-rank-256k-decode-only.json", tmp_path / "out"
    before = sorted(RESULTS.iterdir())
    assert hisa(["ab", "--from", str(kept), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        *("report.json", "report.md", "report.html", "report.csv", "ttft.png", "itl.png", "speedup.png")
    }
    assert json.loads((out / "report.json").read_text()) == json.loads(kept.read_text())
    assert hisa(["eval", "--from", str(RESULTS / "quality-tail.json"), "--out", str(tmp_path / "eval")]) == 0
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {
        *("accuracy.png", "needle.png", "report.csv", "report.html", "report.md")
    }
    capsys.readouterr()
    for command, file in (("ab", kept), ("eval", RESULTS / "quality-tail.json"), ("load", kept)):
        with pytest.raises(SystemExit):
            hisa([command, "--from", str(file)])
        assert "say --out DIR as well" in capsys.readouterr().err
    assert sorted(RESULTS.iterdir()) == before


def test_a_folder_is_rendered_in_place_unless_out_says_where(measured, tmp_path, capsys):
    assert hisa(["ab", "--from", str(measured), "--out", str(tmp_path / "out")]) == 0
    assert not (measured / "report.md").exists() and (tmp_path / "out" / "report.md").exists()
    assert hisa(["ab", "--from", str(measured)]) == 0 and (measured / "report.md").exists()
    with pytest.raises(SystemExit):
        hisa(["ab", "--from", str(tmp_path / "nowhere")])
    assert "nowhere" in capsys.readouterr().err
