"""The report of an A/B record says what the record says, in every form."""

import base64
import io
import json
import math
import re
import sys

import matplotlib.image
import pytest
from rich.console import Console

from sglang_hisa.launch.ab import cell_tables, formatting, report, stats
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common.typed import as_json
from tests.launch.ab.records import CELLS, crash, make, typed

PICTURES = ("ttft.png", "itl.png", "speedup.png")


def coloured(picture):
    """Pixels that are neither grey, black nor white."""
    rgb = matplotlib.image.imread(picture)[..., :3]
    return int(((rgb.max(-1) - rgb.min(-1)) > 0.2).sum())


def terminal(record, width=160):
    console = Console(file=io.StringIO(), width=width)
    cell_tables.print_report(typed(record), console)
    return console.file.getvalue()


def write(record, folder):
    return report.write(typed(record), folder)


def contains(found, given):
    """Whether all that is in ``given`` is in ``found``, too."""
    if isinstance(given, dict):
        return all(key in found and contains(found[key], value) for key, value in given.items())
    if isinstance(given, list):
        return len(found) == len(given) and all(map(contains, found, given))
    return found == given


def kept(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.fixture
def record():
    return make({"stock": 1, "balanced": 1, "paper": 1.5})


def test_every_file_is_written_and_the_record_reads_back(record, tmp_path):
    written = write(record, tmp_path / "new" / "run")
    assert {p.name for p in written} == {"report.json", "report.html", "report.md", "report.csv", *PICTURES}
    assert {p.name for p in (tmp_path / "new" / "run").iterdir()} == {p.name for p in written}
    found = kept(tmp_path / "new" / "run")
    assert contains(found, record)
    assert found["stats"] == json.loads(json.dumps(as_json(stats.compute(typed(record)))))
    assert AbRecord.load(tmp_path / "new" / "run") == report.complete(typed(record))
    assert len(found["rows"]) == 2 * len(CELLS) * len(stats.METRICS)


def test_a_kept_record_is_rendered_with_all_that_a_newer_version_may_have_kept(record, tmp_path):
    record |= {"of_a_newer_version": {"x": [1, None]}, "stats": {"confidence": 0}, "rows": []}
    record["arms"]["paper"]["receipt"]["gpu"] = {"name": "H200"}
    (tmp_path / "report.json").write_text(json.dumps(record))
    report.render(tmp_path, tmp_path / "out")
    found, made = kept(tmp_path / "out"), report.complete(typed(record)).as_json()
    assert found == {**record, "stats": made["stats"], "rows": made["rows"]}
    assert made["arms"]["paper"]["receipt"] == record["arms"]["paper"]["receipt"]
    assert {"killed", "log_tail", "rows"} <= made["arms"]["paper"].keys() and len(made["rows"]) == 24


def test_the_rows_are_flat_and_have_the_names_of_every_record(record, tmp_path):
    record["arms"]["balanced"]["setting"] = '{"preset": "balanced", "audit": 0.01}'
    record["measurements"] = [m for m in record["measurements"] if m["cell"] < 2]
    write(record, tmp_path)
    every = kept(tmp_path)["rows"]
    rows = {(r["arm"], r["context"], r["concurrency"], r["metric"]): r for r in every}
    assert len(rows) == len(every) and {r["metric"] for r in every} == {
        *("ttft", "itl", "tpot", "output_throughput")
    }
    row = rows["balanced", 8192, 3, "output_throughput"]
    of = {
        arm: [m for m in record["measurements"] if (m["arm"], m["cell"]) == (arm, 1)]
        for arm in record["arms"]
    }
    ratios = [ours["output_tok_s"] / base["output_tok_s"] for ours, base in zip(of["balanced"], of["stock"])]
    assert row["speedup"] == pytest.approx(math.prod(ratios) ** (1 / len(ratios)))
    assert row["ci_low"] < row["speedup"] < row["ci_high"] and row["verdict"] == stats.SAME
    assert (row["preset"], row["baseline"], row["pairs"]) == ("balanced (changed: audit)", "stock", 6)
    missing = rows["paper", 30001, 1, "ttft"]
    assert missing["preset"] == "paper" and missing["speedup"] is None and missing["verdict"] == stats.TOO_FEW
    assert all(not isinstance(value, (dict, list)) for r in every for value in r.values())


def many(tokens=100):
    """A record of one shared-prefix cell and one of distinct prompts; ``paper`` decodes twice as fast."""
    cells = [
        {**CELLS[0], "concurrency": 4, "requests": 4, "prefix_tokens": 7168},
        {**CELLS[1], "concurrency": 3, "requests": 3},
    ]
    record = make({"stock": 1, "paper": 2}, cells=cells)
    for one in record["measurements"]:
        at_once = cells[one["cell"]]["concurrency"]
        rate = (200 if one["arm"] == "paper" else 100) * (1 + one["round"] / 1000)
        one["steady"] = {
            **{"at_once": at_once, "window_s": 2.5, "share": 0.25, "tokens": tokens},
            **{"itl_p50": at_once / rate, "itl_p99": 1.0, "tpot": at_once / rate},
            **{"output_tok_s": rate, "requests_s": rate / 32},
        }
    return record


def test_each_form_shows_decode_at_steady_state(tmp_path):
    record = many()
    written = write(record, tmp_path)
    assert {p.suffix for p in written} == {".json", ".md", ".html", ".csv", ".png"}
    assert coloured(tmp_path / "steady.png") > 500
    page, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    for text in (page, markdown.replace("\\", "")):
        assert "7K shared + 1K × 4" in text and "2.00× [2.00, 2.00] faster" in text
        assert "2.5 s, 25%" in text and "19.95 ms" in text and "200" in text
    shown = terminal(record)
    assert "39.90 → 19.95 ms" in shown and "100 → 200" in shown and "2.00× [2.00, 2.00]" in shown
    assert "7K shared + 1K in, 32 out" not in shown, "its whole run is not compared"
    rows = {(r["concurrency"], r["metric"]): r for r in kept(tmp_path)["rows"]}
    assert {metric for level, metric in rows if level == 4} == {"steady_itl", "steady_output_throughput"}
    assert rows[4, "steady_itl"]["shared_prefix"] == 7168 and "shared_prefix" not in rows[3, "steady_itl"]
    assert rows[3, "steady_itl"]["speedup"] == pytest.approx(2) and (3, "ttft") in rows


def test_a_window_with_too_few_tokens_is_said_to_be_invalid_and_not_shown(tmp_path):
    """16 tokens a request are enough, fewer are not."""
    record = many(tokens=63)
    write(record, tmp_path)
    for form in (
        terminal(record),
        (tmp_path / "report.md").read_text(),
        (tmp_path / "report.html").read_text(),
    ):
        said = " ".join(form.replace("\\", "").split())
        assert "INVALID at steady state, left out: arm paper, 7K shared + 1K × 4, 6 of 6 measurements" in said
        assert "39.90" not in said and "19.95" not in said
        assert "8K × 3, 6 of 6" not in said, "63 tokens are enough for three requests"
    assert "INVALID" not in terminal(many(tokens=64))


def test_tokens_that_arrive_later_than_the_server_decodes_them_are_told(tmp_path):
    record = many()
    for one in record["measurements"]:
        one["steady"]["server_tok_s"] = one["steady"]["output_tok_s"] * (
            1.25 if one["arm"] == "paper" else 1.02
        )
    said = " ".join(terminal(record).split())
    assert "arm paper, 7K shared + 1K × 4: tokens arrived at 80% of the rate at which" in said
    assert "arm stock, 7K" not in said


def test_plots_have_colours_and_the_page_holds_them(record, tmp_path):
    write(record, tmp_path)
    page = (tmp_path / "report.html").read_text()
    for name in PICTURES:
        assert coloured(tmp_path / name) > 500
        assert base64.b64encode((tmp_path / name).read_bytes()).decode() in page
    assert not re.search(r'(src|href)="(?!data:)', page)


@pytest.mark.parametrize("together", [False, True])
def test_each_form_says_that_servers_were_started_once(record, tmp_path, together):
    record["plan"]["together"] = together
    write(record, tmp_path)
    forms = [terminal(record), *((tmp_path / name).read_text() for name in ("report.md", "report.html"))]
    said = " started once: a difference up to 2 % "
    assert [said in " ".join(form.split()) for form in forms] == [together] * 3


def test_each_form_shows_the_speedup_and_its_verdict(record, tmp_path):
    write(record, tmp_path)
    found = kept(tmp_path)["stats"]["comparisons"]
    head = next(c for c in found if (c["arm"], c["cell"], c["metric"]) == ("paper", 1, "ttft"))
    number = f"{head['speedup']:.2f}× "
    interval = f"[{head['low']:.2f}, {head['high']:.2f}]"
    markdown, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    line = next(x for x in markdown.splitlines() if "8K in, 32 out, 3 at once" in x)
    assert line.replace("\\", "").split(" | ")[4] == f"{number}{interval} faster"
    times = formatting.times(AbRecord.load(tmp_path).found("paper", 1, "ttft"))
    medians = [head[f"{of}_median"] * 1e3 for of in ("baseline", "arm")]
    assert times == f"{medians[0]:.2f} → {medians[1]:.2f} ms" and times in terminal(record)
    assert f'<td class="faster">{number}{interval} faster<br><small>{times}</small></td>' in page
    assert f"{number}{interval}" in terminal(record) and "faster" in terminal(record)
    for text in (markdown, page, terminal(record)):
        assert "no difference seen" in text and "30001 in" in text
        assert "3.0 MiB" in text and "123,456" in text and "SGLang 0.5.17" in text
        assert "REFUSED" not in text and "PARTIAL" not in text


def test_refusals_come_first_and_no_verdict_is_shown(record, tmp_path):
    record["refusals"] = ["arm paper: no HISA receipt"]
    write(record, tmp_path)
    markdown, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    assert markdown.startswith("> **REFUSED, no verdict is given: arm paper: no HISA receipt**")
    assert page.index("REFUSED") < page.index("Speed-up over")
    shown = terminal(record)
    assert shown.startswith("REFUSED")
    for text in (markdown, page.partition("<body>")[2], shown):
        assert not re.search(r"faster *(\||│|<)|no difference seen", text)


def test_a_crashed_arm_and_a_partial_record_are_reported(record, tmp_path):
    record = crash(record, "paper")
    written = write(record, tmp_path)
    assert len(written) == 7
    markdown, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    for text in (markdown, page, terminal(record)):
        assert "PARTIAL (arm paper: server died): 36 of 54 measurements" in text
    assert "out of memory &lt;see above&gt;" in page
    assert "arm paper, end of its log: RuntimeError: out of memory" in terminal(record)
    row = next(x for x in markdown.splitlines() if x.startswith("| paper |"))
    assert row.count("–") == 5
    found = kept(tmp_path)["stats"]["verdicts"]
    assert found["paper"] == {stats.TOO_FEW: 12}


def counted(prefill, decode):
    """Rows of one scheduler's receipt: tokens of their contexts, and those that were scored."""
    counts = {"prefill": prefill, "decode": decode}
    rows = {phase: dict(zip(("context_tokens", "candidate_tokens"), two)) for phase, two in counts.items()}
    return {**rows, "stock": {"decode: little or nothing to prune": 3}}


def test_what_an_arm_pruned_is_shown_and_if_it_did_not(record):
    """Over all schedulers; one may have had no request."""
    record["arms"]["paper"]["rows"] = [counted((0, 0), (0, 0)), counted((1000, 310), (50, 50))]
    record["arms"]["balanced"]["rows"] = [counted((0, 0), (0, 0)), counted((1000, 1000), (0, 0))]
    assert "arm balanced pruned nothing: its rows fit their budgets" in terminal(record)
    assert "arm paper" not in terminal(record) and "arm stock" not in terminal(record)
    rows = {line[0]: line for line in formatting.memory(typed(record))}
    share = formatting.MEMORY_HEAD.index("candidate share")
    assert [rows[arm][share] for arm in record["plan"]["arms"]] == ["–", "–", "prefill 0.31"]


def test_the_table_of_servers_breaks_no_word_at_80_columns():
    record = make({"stock": 1, "decode-only": 1, "balanced": 1, "paper": 1.5})
    for arm in record["arms"].values():
        arm |= {"kv_tokens": 1234567, "summary_bytes": 3 << 30, "starts_s": [141.2, 98.0], "retractions": 0}
        arm["rows"] = [counted((1000, 310), (50, 25))]
    shown = terminal(record, 80).partition(" servers")[2]
    rows = {line.split("│")[1].strip() for line in shown.splitlines() if line.count("│") == 6}
    assert rows >= set(formatting.MEMORY_HEAD[1:]), "each heading on a line of its own"
    for word in ("decode-only", "1,234,567", "3,072.0 MiB", "prefill 0.31", "decode 0.50", "98 s"):
        assert word in shown


def test_the_last_error_of_a_log_is_told_with_the_way_out_of_a_full_gpu():
    log = (
        "ValueError: first\nloading\ntorch.OutOfMemoryError: CUDA out of memory. Tried\n\nSIGQUIT received\n"
    )
    alone = "arm a, end of its log: torch.OutOfMemoryError: CUDA out of memory. Tried"
    assert formatting.last_error("a", log, False) == alone
    assert formatting.last_error("a", log, True).startswith(f"{alone}; the servers share a GPU: fewer --arms")
    assert formatting.last_error("a", "killed\n", True) == "arm a, end of its log: killed"
    assert formatting.last_error("a", "x" * 999, True).endswith("x...") and formatting.last_error(
        "a", "\n", True
    )


@pytest.mark.parametrize("change", [{"measurements": []}, {"measurements": [], "arms": {}}])
def test_a_record_with_nothing_measured_is_reported(record, tmp_path, change):
    record |= change | {"complete": False, "stopped_by": "interrupt"}
    write(record, tmp_path)
    assert "PARTIAL (interrupt): 0 of 54" in terminal(record)
    assert coloured(tmp_path / "ttft.png") < coloured(tmp_path / "speedup.png")


def test_a_baseline_alone_is_reported(tmp_path):
    record = make({"stock": 1})
    write(record, tmp_path)
    assert "No arm beside the baseline" in (tmp_path / "report.html").read_text()
    assert coloured(tmp_path / "itl.png") > 500


def test_failed_requests_are_said(record):
    record["measurements"][0]["completed"] = 0
    assert "arm stock: 1 measurements left out" in terminal(record)


def test_hostile_text_is_shown_as_text(tmp_path):
    evil = "<script>alert('$x$')</script>|[red]"
    record = make({"stock": 1, evil: 1.5}, cells=CELLS[:1])
    record |= {"model": evil, "flags": [evil], "refusals": [evil]}
    record["provenance"]["command"] = evil
    record["arms"][evil] |= {"setting": evil, "log_tail": evil, "version": evil}
    write(record, tmp_path)
    assert "<script" not in (tmp_path / "report.html").read_text()
    markdown = (tmp_path / "report.md").read_text()
    assert "<script" not in markdown
    rows = [x for x in markdown.splitlines() if x.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", x)) for x in rows} == {5, 9}
    assert evil in terminal(record)


def test_without_matplotlib_the_page_says_that_plots_are_missing(record, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = write(record, tmp_path)
    assert {p.name for p in written} == {"report.json", "report.html", "report.md", "report.csv"}
    assert "matplotlib is missing" in (tmp_path / "report.html").read_text()


def test_another_kind_of_record_is_not_loaded(tmp_path):
    (tmp_path / "report.json").write_text('{"kind": "other", "schema_version": 1}')
    with pytest.raises(ValueError, match="hisa-ab"):
        AbRecord.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        AbRecord.load(tmp_path / "nowhere")


def test_what_a_record_lacks_is_named_with_its_file(record, tmp_path):
    del record["measurements"][3]["round"]
    (tmp_path / "report.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=rf"{tmp_path}.*measurements\[3\] has no round"):
        AbRecord.load(tmp_path)


def test_a_killed_arm_is_told_by_its_signal_and_not_by_the_end_of_its_log(record):
    record |= {"complete": False, "stopped_by": "arm paper: the server was killed"}
    record["arms"]["paper"] |= {
        "log_tail": "ValueError: of long ago\nPrefill batch",
        "killed": "was killed by X",
    }
    notes = formatting.notes(typed(record))
    assert "arm paper was killed by X; its log: server-paper.log" in notes
    assert not any("ValueError" in note or "Prefill" in note for note in notes)
