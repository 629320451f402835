"""`hisa eval --ruler2`: what sgl-eval is asked for, and what becomes of its answers.

sgl-eval is a stand-in here that takes its command line and writes its files (as sgl-eval 0.1.3 does).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_hisa.launch.cli import main
from sglang_hisa.launch.eval import report, ruler
from tests.launch.ab.json_server import serving

STAND_IN = """
import argparse, json, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("verb", choices=["run"])
parser.add_argument("suite", choices=["ruler2"])
for name in ("base-url", "ruler2-seq-len", "ruler2-dataset-size", "ruler2-tokenizer", "num-threads"):
    parser.add_argument("--" + name, required=True)
for name in ("temperature", "max-tokens", "out-dir"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--ruler2-tasks", nargs="+", required=True)
args = parser.parse_args()
fault = os.environ.get("FAULT", "")
if fault == "exit":
    raise SystemExit("no such tokenizer")
folder = pathlib.Path(args.out_dir) / "sgl_eval_ruler2_20261125-120000"
folder.mkdir(parents=True)
(folder / "args.json").write_text(json.dumps(vars(args)))
count = int(args.ruler2_dataset_size) - (fault == "short")
with (folder / "output-rs0.jsonl").open("w") as out:
    for task in args.ruler2_tasks:
        for i in range(count):
            score = 0.5 if i == 1 and args.base_url.endswith("2/v1") else 1.0
            end = "error" if fault == "error" else "stop"
            print(json.dumps({"id": f"{task}-{i}", "is_correct": score, "finish_reason": end}), file=out)
"""


@pytest.fixture
def urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two servers that name their model (sgl-eval's stand-in asks nothing of them)."""
    package = tmp_path / "site" / "sgl_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cli.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))

    with serving(lambda path, given: {"data": [{"id": "org/model"}]}) as base:
        yield [f"{base}/v1/models?at=1", f"{base}/v1/models?at=2"]


def run(urls: list[str], out: Path) -> int:
    words = ["eval", *urls, "--ruler2", "--tasks", "mk_niah_hard,mv_niah_basic", "--contexts", "4k,8k"]
    return main([*words, "--samples", "3", "--at-once", "5", "--out", str(out)])


def test_every_length_is_asked_of_every_arm(tmp_path: Path, urls: list[str]) -> None:
    out = tmp_path / "out"
    assert run(urls, out) == 0
    asked = [json.loads(path.read_text()) for path in sorted(out.glob("sgl-eval/**/args.json"))]
    assert sorted((a["base_url"], a["ruler2_seq_len"]) for a in asked) == [
        (f"{url}/v1", length) for url in urls for length in ("4096", "8192")
    ]
    for one in asked:
        assert (one["ruler2_tokenizer"], one["ruler2_dataset_size"]) == ("org/model", "3")
        assert (one["num_threads"], one["temperature"], one["max_tokens"]) == ("5", "0", "512")
        assert one["ruler2_tasks"] == ["mk_niah_hard", "mv_niah_basic"]
    record = report.load(out)
    assert record.complete and record.plan.suite == "ruler2"
    rows = {(r.arm, r.task, r.context): r for r in record.rows}
    assert len(rows) == 8
    first, second = rows[urls[0], "mk_niah_hard", 4096], rows[urls[1], "mk_niah_hard", 4096]
    assert first.accuracy == 1 and first.n == 3
    assert second.accuracy == pytest.approx(2 / 3), "half an answer is not a whole one"
    assert (second.lost, second.won) == (1, 0)
    assert (out / "accuracy.png").stat().st_size > 10_000 and not (out / "needle.png").exists()


@pytest.mark.parametrize(
    ("fault", "told"),
    [("exit", "no such tokenizer"), ("short", "graded 4 of 6"), ("error", "request of mk_")],
)
def test_answers_that_are_missing_are_a_failure(
    tmp_path: Path, urls: list[str], monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    monkeypatch.setenv("FAULT", fault)
    assert run(urls[:1], tmp_path / "out") != 0
    record = report.load(tmp_path / "out")
    assert not record.complete and told in record.refusals[0]


def test_wrong_usage_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for words, told in (
        (["--ruler2", "--tasks", "needle"], "unknown task needle; allowed: mk_niah_basic"),
        (["--ruler2", "--together"], "--ruler2 does not go with --together"),
        (["--ruler2"], "pip install 'sgl-eval[longcontext]'"),
    ):
        monkeypatch.setattr(ruler, "installed", lambda: False)
        with pytest.raises(SystemExit):
            main(["eval", *words, "model"])
        assert told in capsys.readouterr().err
