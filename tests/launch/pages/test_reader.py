"""Which records a table is made of: those of its kind and subject, the newest of each, by what they say."""

import json
import re

import pytest

from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.bench.record import KernelRecord
from sglang_hisa.launch.eval.record import EvalRecord
from sglang_hisa.launch.pages import answer_tables, kernel_tables, reader, tables
from tests.launch.pages.markdown import tables_of

KEPT = reader.RESULTS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "RESULTS", tmp_path)
    return tmp_path


def put(folder, name, source, *, model=None, flags=(), **where):
    """A copy of a kept record with another origin."""
    made = json.loads((KEPT / f"{source}.json").read_text())
    made["provenance"] |= where
    if model:
        made["model"] = f"/tmp/out/model-{model}"
    if flags:
        made["flags"] += flags
    (folder / f"{name}.json").write_text(json.dumps(made))


def test_a_new_file_is_in_the_table_of_its_model_and_nowhere_else(folder):
    put(folder, "ab-defaults", "ab-defaults")
    put(folder, "ab-new", "ab-many", date="2026-12-01T00:00:00+00:00")
    put(folder, "ab-other", "ab-defaults", model="other")
    put(folder, "ab-ranks", "ab-defaults", model="other", flags=["--tp", "4"])
    shown = {
        (name, wanted): [list(records) for _, records in tables.TABLES[name](wanted)]
        for name in ("ab", "many")
        for wanted in ("v32-tp8-rank", "other", "other, TP 4")
    }
    assert shown == {
        ("ab", "v32-tp8-rank"): [["ab-defaults"]],
        ("many", "v32-tp8-rank"): [["ab-new"]],
        ("ab", "other"): [["ab-other"]],
        ("ab", "other, TP 4"): [["ab-ranks"]],
        ("many", "other"): [],
        ("many", "other, TP 4"): [],
    }


def test_the_newest_of_one_plan_gpu_and_sglang_stands_first_and_alone(folder):
    days = {"ab-a": "2026-11-01", "ab-b": "2026-11-03", "ab-c": "2026-11-02"}
    for name, day in days.items():
        put(folder, name, "ab-defaults", date=f"{day}T09:00:00+00:00")
    put(folder, "ab-d", "ab-defaults", date="2026-11-02T00:00:00+00:00", sglang="0.5.23")
    put(folder, "ab-e", "ab-defaults", date="2026-11-02T00:00:00+00:00", gpu="NVIDIA H100 80GB HBM3")
    put(folder, "ab-f", "ab-defaults-four", date="2026-11-04T00:00:00+00:00")
    assert list(reader.newest(AbRecord, "ab-*")) == ["ab-f", "ab-b", "ab-d", "ab-e"]
    assert list(reader.newest(AbRecord, "ab-[a-c]")) == ["ab-b"]


def test_what_is_wanted_of_answers_is_a_pattern_of_names(folder):
    for name in ("quality", "quality-tail", "quality-frontier", "quality-frontier-paper"):
        put(folder, name, "quality-tail" if name == "quality-tail" else "quality-frontier", gpu=name)
    made = reader.each(EvalRecord, "quality*", answer_tables.sums)
    assert [list(of) for _, of in made("quality-frontier*")] == [
        ["quality-frontier"],
        ["quality-frontier-paper"],
    ]
    assert [list(of) for _, of in made("quality")] == [["quality"]] and len(made("")) == 4


def test_what_was_pruned_is_told_of_the_arms_that_said_so(folder):
    """``quality-first`` was cut off: two arms of its plan never started, and stock has no receipt."""
    put(folder, "quality-first", "quality-first")
    ((text, _),) = tables.TABLES["pruned"]("quality-first")
    (rows,) = tables_of(text)
    assert [row["arm"] for row in rows] == ["`balanced`", "`paper`", "`block-sparse`"]
    made = json.loads((folder / "quality-first.json").read_text())
    counted = made["arms"]["paper"]["receipt"]["rows"]
    assert rows[1]["rows by HISA"] == f"{counted['prefill']['rows'] + counted['decode']['rows']:,}"
    assert rows[1]["candidate share, prefill"] == f"{counted['prefill']['candidate_share']:.2f}"
    assert rows[0]["candidate share, prefill"] == "–", "nothing of it was pruned"


def test_a_record_of_another_gpu_has_a_table_of_its_own_and_columns_beside_the_goals(folder):
    put(folder, "kernels-h100", "kernels-h100")
    put(folder, "kernels-h200-0.5.23", "kernels-h100", gpu="NVIDIA H200", sglang="0.5.23", date="2026-12-01")
    large = json.loads((KEPT / "kernels-h100.json").read_text())
    large["rows"] = [row for row in large["rows"] if row.get("block") == 128]
    large["provenance"] |= {"sglang": "0.5.23", "date": "2026-11-25"}
    (folder / "kernels-h100-0.5.23.json").write_text(json.dumps(large))
    made = tables.TABLES["decode"]("")
    assert [list(of) for _, of in made] == [["kernels-h200-0.5.23"], ["kernels-h100"]], "blocks of 64 alone"
    ((text, records),) = kernel_tables.goals("")
    assert list(tables_of(text)[0][0])[3:] == [
        *("H200, 0.5.23, block 64", "H200, 0.5.23, block 128"),
        *("H100, 0.5.17, block 64", "H100, 0.5.17, block 128", "H100, 0.5.23, block 128"),
    ]
    assert set(records) == {path.stem for path in folder.iterdir()}
    rows = reader.newest(KernelRecord, "kernels-h100")["kernels-h100"].rows
    (one,) = {
        f"{r.stock_us / r.hisa_us:.2f}×"
        for r in rows
        if (r.phase, r.stage, r.batch, r.context) == ("decode", "total", 16, 131072)
        if (r.heads, r.budget, r.block, r.refine) == (64, 8192, 64, "deepgemm")
    }
    assert tables_of(text)[0][4]["H100, 0.5.17, block 64"] == one


def test_heads_are_shown_at_the_longest_context(folder):
    made = json.loads((KEPT / "recall-heads.json").read_text())
    (folder / "recall-heads.json").write_text(json.dumps(made))
    ((shown, _),) = tables.TABLES["heads"]("")
    before = tables_of(shown)[0]
    assert "candidates of 64K" in before[0]
    longer = [
        {**row, "context": 2 * row["context"], "tokens": 2 * row["tokens"], "mass": row["mass"] / 2}
        for row in made["rows"]
    ]
    (folder / "recall-heads.json").write_text(json.dumps({**made, "rows": longer + made["rows"]}))
    ((text, _),) = tables.TABLES["heads"]("")
    rows = tables_of(text)[0]
    assert [row["candidates of 128K"] for row in rows][:4] == ["8K", "8K", "16K", "8K"]
    assert rows[-1]["candidates of 128K"] == "all" and rows[-1]["layer 0"] == "0.50"
    assert len(rows) == len(before)


def test_a_mark_without_records_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="table:ab v32-9l"):
        tables.render("<!-- table:ab v32-9l -->\n<!-- end -->")
    with pytest.raises(KeyError, match="nope"):
        tables.render("<!-- table:nope -->\n<!-- end -->")


def test_marks_keep_their_words_and_tables_name_and_link_their_records():
    text = "a\n<!-- table:sums quality-tail -->\nold\n<!-- end -->\nb\n<!-- table:heads -->\n<!-- end -->\n"
    made = tables.render(text, "docs/x.md")
    assert re.findall("<!-- .* -->", made) == re.findall("<!-- .* -->", text) and "old" not in made
    links = [f"../launch/results/{name}.json" for name in ("quality-tail", "recall-heads")]
    assert re.findall(r"\]\(([^)]+)\)", made) == links
    assert tables.render(made, "docs/x.md") == made


def test_every_arm_stands_once_in_the_readme_with_its_run():
    text = (tables.ROOT / "README.md").read_text()
    part = text.split("<!-- table:headline -->")[1].split("<!-- end -->")[0]
    ((_, records),) = tables.TABLES["headline"]("")
    assert part.count("<sub>NVIDIA") == len(records) == 2
    for name in records:
        where = json.loads((KEPT / f"{name}.json").read_text())["provenance"]
        assert f"{where['gpu']}, SGLang {where['sglang']}" in part and f"{name}.json" in part


def test_answers_by_the_dense_end_add_up():
    asked = json.loads((KEPT / "quality-tail.json").read_text())["answers"]
    rows = tables_of(tables.made("sums", "quality-tail"))[0]
    assert [row["context"] for row in rows] == ["16K", "32K", "all"] and len(rows[0]) == 6
    for row in rows:
        for head, cell in list(row.items())[1:]:
            mine = [a for a in asked if a["arm"] == head.strip("`")]
            right = [a["right"] for a in mine if row["context"] in ("all", f"{a['context'] // 1024}K")]
            assert cell == f"{sum(right)} of {len(right)}"
