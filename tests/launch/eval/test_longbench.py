"""`hisa eval --longbench`: what lm-eval is asked for, and what becomes of its scores.

lm-eval is a stand-in here that takes its command line and writes its files (as lm-eval 0.4.13 does).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import norm

from sglang_hisa.launch.cli import main
from sglang_hisa.launch.eval import longbench, report, scores, stats
from sglang_hisa.launch.eval.record import Answer
from tests.launch.ab.json_server import serving

STAND_IN = """
import argparse, hashlib, json, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("verb", choices=["run"])
parser.add_argument("--model", choices=["local-completions"], required=True)
for name in ("model_args", "gen_kwargs"):
    parser.add_argument("--" + name, type=json.loads, required=True)
parser.add_argument("--tasks", nargs="+", required=True)
parser.add_argument("--limit", type=float, required=True)
parser.add_argument("--log_samples", action="store_true", required=True)
parser.add_argument("--output_path", required=True)
args = parser.parse_args()
fault = os.environ.get("FAULT", "")
if fault == "exit":
    raise SystemExit("Couldn't reach 'Xnhyacinth/LongBench' on the Hub")
given = args.model_args
second = "/2/" in given["base_url"]
folder = pathlib.Path(args.output_path) / given["model"].replace("/", "__")
folder.mkdir(parents=True)
(folder / "args.json").write_text(json.dumps(vars(args) | {"no_proxy": os.environ["no_proxy"]}))
date = "2026-11-25T14-23-43.160171"
counts = {task: min(int(args.limit), 7) for task in args.tasks}
for task, count in counts.items():
    with (folder / f"samples_{task}_{date}.jsonl").open("a") as out:
        for i in range(count - (fault == "short")):
            length = [300, 1025, 5000][i % 3]
            filler = "." if second and fault == "other" else "x"
            prompt = f"{task} {i} ".ljust(length, filler) + "\\u2028"[:i % 2]
            score = [0, 0.25, 0.8][i % 3] / (2 if second and i < 6 and task.endswith("qasper") else 1)
            sample = {
                "doc_id": i,
                "doc": {"context": prompt, "answers": ["yes"]},
                "target": "['yes']",
                "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {
                    "max_gen_toks": 600 if fault == "long" else 128, "temperature": 0, "do_sample": False,
                    "until": []}}},
                "resps": [[" yes"]],
                "filtered_resps": [" yes"],
                "filter": "none",
                "metrics": ["score", "qa_f1_score"],
                "prompt_hash": hashlib.sha256(prompt.encode()).hexdigest(),
                "qa_f1_score": score,
            }
            if fault != "unscored":
                sample["score"] = score
            print(json.dumps(sample, ensure_ascii=False), file=out)
counts = {task: {"original": 200, "effective": count} for task, count in counts.items()}
(folder / f"results_{date}.json").write_text(json.dumps({"results": {}, "n-samples": counts}))
"""


@pytest.fixture
def urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Two servers of 5120 tokens that name their model and count tokens (lm-eval's stand-in asks nothing)."""
    site = tmp_path / "site"
    (site / "lm_eval").mkdir(parents=True)
    (site / "lm_eval/__init__.py").touch()
    (site / "lm_eval/__main__.py").write_text(STAND_IN)
    for name in longbench.NEEDS[1:-1]:
        (site / f"{name}.py").touch()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))

    def answer(path: str, given: dict[str, Any] | None) -> dict[str, Any]:
        if given is not None:
            assert path.endswith("/tokenize")
            return {"count": len(given["prompt"].rstrip("\u2028"))}
        if path.endswith("/server_info"):
            return {"tokenizer_path": "/its/tokenizer"}
        assert path.endswith("/v1/models")
        return {"data": [{"id": "org/model", "max_model_len": 5120}]}

    with serving(answer) as base:
        yield [f"{base}/1", f"{base}/2"]


def run(urls: list[str], out: Path, contexts: str = "1k,4k") -> int:
    words = ["eval", *urls, "--longbench", "--tasks", "qasper,qasper_e", "--contexts", contexts]
    return main([*words, "--samples", "9", "--at-once", "5", "--out", str(out)])


def test_scores_keep_their_fractions(
    tmp_path: Path, urls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(urls, out) == 0
    asked = [json.loads(path.read_text()) for path in out.glob("lm-eval/**/args.json")]
    assert sorted(one["model_args"]["base_url"] for one in asked) == [f"{url}/v1/completions" for url in urls]
    for one in asked:
        given = one["model_args"]
        assert (given["model"], given["tokenizer"]) == ("org/model", "/its/tokenizer")
        assert given["num_concurrent"] == 5
        assert given["max_length"] == 5120, "left alone, lm-eval cuts what is beyond 2048 tokens"
        assert one["gen_kwargs"] == {"temperature": 0}, "left alone, lm-eval samples at 1"
        assert "127.0.0.1" in one["no_proxy"]
        assert one["tasks"] == ["longbench_qasper", "longbench_qasper_e"] and one["limit"] == 9
    record = report.load(out)
    assert record.complete and record.plan.suite == "longbench"
    assert all(one.right is None and one.score is not None for one in record.answers)
    # Of seven prompts three have 300 tokens and two 1025; two have 5000, which no context holds.
    rows = {(r.arm, r.task, r.context): r for r in record.rows}
    assert {key[2]: row.n for key, row in rows.items()} == {1024: 3, 4096: 2} and len(rows) == 8
    assert record.arms[urls[1]].left_out == {"qasper": (2, 7), "qasper_e": (2, 7)}
    stock, half = rows[urls[0], "qasper", 4096], rows[urls[1], "qasper", 4096]
    assert stock.accuracy == 0.25 and half.accuracy == 0.125 == -(half.difference or 0)
    assert (half.lost, half.won, half.p) == (2, 0, 0.5)
    assert rows[urls[1], "qasper_e", 4096].difference == 0, "qasper's samples are not qasper_e's"
    shown = capsys.readouterr().out
    assert "qasper_e: 2 of 7 prompts are longer than 4096 tokens and left out" in shown
    text = io.StringIO()
    report.print_report(record, Console(file=text, width=300))
    line = next(line for line in text.getvalue().splitlines() if "12.5%" in line)
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        *("qasper", "4096", "2", "25.0% [3%, 80%]", "12.5% [1%, 74%] -12.5 p 0.5")
    ]
    assert main(["eval", "--from", str(out)]) == 0 and capsys.readouterr().out == shown
    assert (out / "accuracy.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("exit", "Couldn't reach"),
        ("short", "graded 6 of 7 answers of qasper"),
        ("unscored", "no score between 0 and 1"),
        ("long", "more than 512 tokens"),
        ("other", "other prompts of qasper"),
    ],
)
def test_what_cannot_be_believed_is_a_failure(
    tmp_path: Path, urls: list[str], monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    monkeypatch.setenv("FAULT", fault)
    assert run(urls, tmp_path / "out") != 0
    record = report.load(tmp_path / "out")
    assert not record.complete and told in record.refusals[0]


def test_a_server_that_is_too_short_is_refused(tmp_path: Path, urls: list[str]) -> None:
    assert run(urls[:1], tmp_path / "out", "1k,5k") != 0
    assert "--contexts up to 4096" in report.load(tmp_path / "out").refusals[0]
    assert not list(tmp_path.glob("out/lm-eval/**/args.json"))


def test_wrong_usage_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longbench, "NEEDS", ("lm_eval_that_nobody_has",))
    for words, told in (
        (["--longbench", "--tasks", "needle"], "unknown task needle; allowed: narrativeqa"),
        (["--longbench", "--ruler2"], "not allowed with"),
        (["--longbench"], "pip install 'lm-eval[api,longbench]'"),
    ):
        with pytest.raises(SystemExit):
            main(["eval", *words, "model"])
        assert told in capsys.readouterr().err


def test_on_answers_that_are_right_or_wrong_the_p_is_mcnemars() -> None:
    for lost, won, same in ((0, 0, 5), (1, 0, 3), (3, 0, 0), (7, 2, 9), (4, 4, 1), (1, 12, 30)):
        differences = (-1.0,) * lost + (1.0,) * won + (0.0,) * same
        assert scores.p_of(differences) == pytest.approx(stats.mcnemar(lost, won)), (lost, won)


def test_intervals_cover_the_mean_and_follow_the_spread() -> None:
    values = np.random.default_rng(5).beta(2, 5, 157)
    low, high = scores.interval(tuple(values.tolist())) or (0, 0)
    half = norm.ppf(0.975) * values.std(ddof=1) / 157**0.5
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert scores.interval((0.3, 0.3)) is None
    alike = [Answer(arm="a", task="t", context=8, depth=0.0, sample=n, score=0.5) for n in (0, 1)]
    (row,) = stats.rows(alike, "a")
    assert (row.ci_low, row.ci_high) == stats.wilson(1, 2) and row.difference_low is None
