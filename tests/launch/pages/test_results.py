"""launch/results: the index says what the folder holds, and records of `hisa ab` come in flat."""

import json
import re
import shutil

import pytest

from sglang_hisa.launch.ab import report
from sglang_hisa.launch.cli import main as hisa
from sglang_hisa.launch.pages import results
from sglang_hisa.launch.pages.reader import RESULTS
from sglang_hisa.launch.pages.results import INDEX
from tests.launch.ab.records import make, typed

COMMAND = (
    "/tmp/site/launch/cli/__main__.py ab --arms stock,odd --arm 'odd={\"audit\": 0.5}' "
    "--out /tmp/x/y out/model-tiny --budgets L/4"
)


def lines(folder):
    """Cells of the index by the first file that a line links, and all files linked."""
    rows = [row.strip("|").split(" | ") for row in (folder / INDEX).read_text().splitlines() if "](" in row]
    rows = [row for row in rows if len(row) == 6]
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
    (at / INDEX).write_text("Hand-written: `ab`, `recall`.\n\n<!-- table:index -->\n<!-- end -->\n")
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
    page = (RESULTS / INDEX).read_text()
    told = " ".join(re.findall(r"^\| (`.*?) \|", page.split("<!-- table")[0], re.MULTILINE))
    assert {re.split(r"\W", name)[0] for name in rows} <= set(re.findall(r"\w+", told))
    assert all((RESULTS / page).exists() for page in re.findall(r"\]\((\.\.[^)#]+)", page))
    for name, row in rows.items():
        text = (RESULTS / name).read_text()
        where = json.loads(text if name.endswith("json") else text.splitlines()[0])
        where = where.get("provenance", where)
        assert (where["gpu"] or "CPU").removeprefix("NVIDIA ").split()[0] in row[2]
        assert (row[3], row[5].strip()) == (where["sglang"], where["date"][:10])


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
    assert row[1] == "`odd` on tiny, TP 2: 8K × 1, 8K × 3, 30001 × 1; 3 rounds"
    assert [cell.strip() for cell in row[2:]] == ["H200", "0.5.17", "abc123", "2026-02-03"]
    assert (folder / INDEX).read_text().startswith("Hand-written: `ab`, `recall`.\n")


def test_a_record_of_shared_prefixes_is_whole_without_times_of_single_tokens(folder, tmp_path):
    kept = json.loads((RESULTS / "ab-many.json").read_text())
    assert not any(one["itl_s"] for one in kept["measurements"])
    (tmp_path / "ab-many").mkdir()
    (tmp_path / "ab-many" / "report.json").write_text(json.dumps({**kept, "stats": None, "rows": []}))
    report.keep(tmp_path / "ab-many", folder)
    assert json.loads((folder / "ab-many.json").read_text()) == kept
    shown = [c for c in kept["stats"]["comparisons"] if c["metric"] == "steady_itl" and c["speedup"]]
    assert len(shown) == 10, "five loads, two arms"


def test_a_newer_record_takes_the_place_of_the_older_and_its_notes(folder, measured, record):
    results.main(["add", str(measured)], folder)
    (measured / "first-prompts.txt").unlink()
    typed({**record, "complete": False}).save(measured)
    results.main(["add", str(measured)], folder)
    assert {path.name for path in folder.glob("ab-*")} == {"ab-odd.json"}
    assert lines(folder)[0]["ab-odd.json"][1].endswith("3 rounds, cut off")


def test_a_folder_that_the_index_does_not_tell_is_noticed(folder, measured, capsys):
    report.keep(measured, folder)
    assert results.main(["--check"], folder) == 1
    results.main([], folder)
    (folder / "ab-odd.first-prompts.txt").unlink()
    assert results.main(["--check"], folder) == 1
    (folder / "notes.txt").write_text("whose?\n")
    with pytest.raises(SystemExit):
        results.main(["--check"], folder)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "notes.txt: say in README.md what `notes` records show" in said
        and "or name it RECORD.notes.txt" in said
    )
    (folder / "notes.txt").rename(folder / "recall.notes.txt")
    assert results.main([], folder) == 0
    assert lines(folder)[0]["recall.json"][0].endswith(", [notes](recall.notes.txt)")


@pytest.mark.parametrize("name,content,said", [("odd", "", "start with ab-"), ("ab-x", "{}", "hisa-ab")])
def test_what_is_no_record_of_hisa_ab_is_refused(folder, tmp_path, capsys, name, content, said):
    (tmp_path / name).mkdir()
    (tmp_path / name / "report.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        results.main(["add", str(tmp_path / name)], folder)
    assert stop.value.code == 2 and said in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"recall.json", "recall.png", INDEX}


def test_a_kept_file_is_rendered_into_another_folder(tmp_path, capsys):
    kept, out = RESULTS / "ab-v32-tp8-rank-grid.json", tmp_path / "out"
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
