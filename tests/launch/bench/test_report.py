"""The CSV and the plot of a kernel record hold what the record says."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest

from sglang_hisa.launch.bench import kernels
from sglang_hisa.launch.bench.record import KernelRecord, KernelRow
from sglang_hisa.launch.common.record import load
from sglang_hisa.launch.common.typed import as_json, read

KEPT = Path(__file__).parents[3] / "launch" / "results" / "kernels-h100.json"


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "kernels.json"
    path.write_text(KEPT.read_text())
    return path


def colours(picture):
    """Pixels of an image that are neither grey, black nor white: curves, not axes."""
    rgb = matplotlib.image.imread(picture)[..., :3]
    return int(((rgb.max(-1) - rgb.min(-1)) > 0.2).sum())


def test_every_row_is_in_the_csv_and_the_curves_are_drawn(record, capsys):
    assert kernels.main(["--render", str(record)]) == 0
    rows = [vars(row) for row in load(record, KernelRecord).rows]
    with record.with_suffix(".csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows) > 100
    for line, row in zip(table, rows, strict=True):
        for key in ("context", "batch", "rows", "stage", "stock_us", "hisa_p80_us", "speedup"):
            value = row.get(key)
            assert line[key] == ("" if value is None else str(value))
    assert colours(record.with_suffix(".png")) > 5000
    assert "kernels.csv" in capsys.readouterr().out


def test_a_record_without_totals_draws_no_curve(record):
    kept = json.loads(record.read_text())
    kept["rows"] = [row for row in kept["rows"] if row["stage"] != "total"]
    record.write_text(json.dumps(kept))
    assert kernels.main(["--render", str(record)]) == 0
    assert colours(record.with_suffix(".png")) == 0


def test_without_matplotlib_the_csv_is_written_and_the_missing_plot_is_said(record, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert kernels.main(["--render", str(record)]) == 0
    assert record.with_suffix(".csv").is_file()
    assert not record.with_suffix(".png").exists()
    assert "matplotlib is missing" in capsys.readouterr().out


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_totals_are_one_row_a_cell_and_the_last_measurement(record, phase):
    kept = load(record, KernelRecord)
    again = replace(kept.totals(phase)[0], hisa_us=12345.0)
    changed = (replace(again, heads=1), replace(again, refine="triton"), replace(again, tail=1024))
    rows = replace(kept, rows=(*kept.rows, again, *changed)).totals(phase)
    cells = [(r.context, r.batch if phase == "decode" else r.rows, r.budget, r.group) for r in rows]
    assert len(set(cells)) == len(cells) == len(kept.totals(phase)) > 5
    assert [r.hisa_us for r in rows].count(12345.0) == 1 and not any(r.tail for r in rows)


def test_totals_of_few_rows_are_those_of_the_kernel_that_a_server_takes(record):
    kept = load(record, KernelRecord)
    prefill = kept.totals("prefill")
    assert prefill and {r.refine for r in prefill} == {"deepgemm"}
    before = [replace(r, refine="deepgemm") for r in kept.totals("decode")]
    few = [replace(r, refine="triton", hisa_us=1.0) for r in before if r.batch <= 16]
    kept = replace(kept, rows=(*before, *few))
    assert replace(kept, settings={"refine_rows": 0}).totals("decode") == before
    rows = replace(kept, settings={"refine_rows": 16}).totals("decode")
    assert len(rows) == len(before)
    assert all((r.hisa_us == 1.0) == (r.batch <= 16) for r in rows)


def test_a_record_of_one_kernel_has_its_totals(record):
    kept = load(record, KernelRecord)
    rows = tuple(replace(r, refine="triton") for r in kept.totals("decode"))
    assert tuple(replace(kept, rows=rows).totals("decode")) == rows


def test_a_record_is_written_as_it_was_read(record):
    kept = load(record, KernelRecord)
    record.write_text(json.dumps(as_json(kept)))
    assert load(record, KernelRecord) == kept and len(kept.rows) > 100


def test_refine_is_what_a_server_takes_unless_asked_for(capsys):
    assert kernels.parse([]).refine == ["auto"]
    assert kernels.parse(["--refine", "deepgemm", "triton"]).refine == ["deepgemm", "triton"]
    with pytest.raises(SystemExit):
        kernels.parse(["--refine", "fast"])
    assert "invalid choice: 'fast'" in capsys.readouterr().err


def test_an_older_record_says_that_prefills_pick_was_timed_with_the_coarse_scores(record):
    """Schema 1 timed coarse and pick together in prefill and apart in decode, under one name."""
    old = json.loads(record.read_text())
    assert old["schema_version"] == 1
    new = load(record, KernelRecord)
    assert new.schema_version == 2
    for before, after in zip(old["rows"], new.rows, strict=True):
        both = (before["phase"], before["stage"]) == ("prefill", "pick")
        assert after == read(KernelRow, {**before, "stage": "coarse+pick" if both else before["stage"]})
    assert any(row.stage == "coarse+pick" for row in new.rows)
    record.write_text(json.dumps({**old, "schema_version": 2}))
    assert [row.stage for row in load(record, KernelRecord).rows] == [r["stage"] for r in old["rows"]]
