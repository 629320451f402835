"""Write the tables of README, docs and kernel notes from launch/results, so that no figure is typed in.

python -m sglang_hisa.launch.pages.tables          rewrite them
python -m sglang_hisa.launch.pages.tables --check  exit 1 if it would change
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang_hisa.launch.ab import cell_tables as ab_tables
from sglang_hisa.launch.acceptance.stress import scene_tables as stress_tables
from sglang_hisa.launch.bench.report import group_of, totals
from sglang_hisa.launch.common import flags
from sglang_hisa.launch.common.text import source, table, together, tokens
from sglang_hisa.launch.eval.formatting import SURE

K = 1024
ROOT = Path(__file__).parents[2]


_loaded: dict[str, dict[str, Any]] = {}
"""Records that :func:`made` has loaded, by the name that its note calls them."""


def _load(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((ROOT / "launch" / "results" / name).read_text())
    _loaded[name.removesuffix(".json")] = record
    return record


def _source(record: dict[str, Any], name: str, gpus: int = 1) -> str:
    return source(record["provenance"], f"launch/results/{name}", gpus)


def decode() -> str:
    """Speed-up of a decode layer, budget 8192."""
    record = _load("kernels-h100.json")
    rows = {(r["context"], r["batch"]): r for r in totals(record, "decode") if r["budget"] == 8192}
    batches = sorted({batch for _, batch in rows})
    out = []
    for context in sorted({c for c, _ in rows}):
        cells = []
        for batch in batches:
            row = rows.get((context, batch))
            cells.append(
                "" if row is None else f"{row['speedup']:.2f}× ({row['stock_us']:.0f} → {row['hisa_us']:.0f})"
            )
        out.append([f"{context // K}K", *cells])
    head = ["context", *(f"B={batch}" for batch in batches)]
    return table(head, out) + "\n\n" + _source(record, "kernels-h100.json")


def prefill() -> str:
    """Speed-up of a prefill chunk."""
    record = _load("kernels-h100.json")
    out = []
    order = ("context", "rows", "budget")
    for row in sorted(totals(record, "prefill"), key=lambda r: (*map(r.get, order), group_of(r))):
        out.append(
            [
                f"{row['context'] // K}K",
                str(row["rows"]),
                f"{row['budget'] // K}K" + (", pairs" if group_of(row) > 1 else ""),
                f"{row['stock_us'] / 1000:.2f} ms",
                f"{row['hisa_us'] / 1000:.2f} ms",
                f"{row['speedup']:.2f}×",
            ]
        )
    head = ["context", "rows", "budget", "stock", "HISA", ""]
    return table(head, out) + "\n\n" + _source(record, "kernels-h100.json")


GOALS: tuple[tuple[str, int | str, dict[int, float]], ...] = (
    ("decode", 1, {64: 1.3, 128: 1.7, 256: 2.4}),
    ("decode", 16, {64: 3.2, 128: 5.2, 256: 8.0}),
    ("decode", 64, {64: 5.0, 128: 9.0, 256: 15.0}),
    ("prefill", "8K", {32: 3.0, 64: 6.0, 128: 12.0}),
    ("prefill", "L/4", {64: 3.3, 128: 3.8}),
)
"""Phase, rows of a decode step or budget of a prefill chunk, speed-up aimed at by context in K tokens."""


def goals() -> str:
    """What was aimed at beside what was measured: two block sizes, the newest stock top-k in both arms."""
    record, newer = _load("kernels-h100.json"), _load("kernels-h100-0.5.23.json")

    def found(kept: dict[str, Any], phase: str, size: int | str, context: int, block: int) -> str:
        budget = context // 4 if size == "L/4" else 8 * K
        for row in totals(kept, phase, block):
            same = row["batch"] == size if phase == "decode" else row["rows"] == 8192 and group_of(row) == 2
            if same and (row["context"], row["budget"]) == (context, budget):
                return f"{row['speedup']:.2f}×"
        return "–"

    out = []
    for phase, size, by_context in GOALS:
        what = f"decode, B={size}" if phase == "decode" else f"prefill, budget {size}"
        for thousands, goal in by_context.items():
            at = (phase, size, thousands * K)
            cells = [found(record, *at, 64), found(record, *at, 128), found(newer, *at, 128)]
            out.append([what, f"{thousands}K", f"{goal}×", *cells])
    head = ["", "context", "goal", "block 64", "block 128", "block 128, top-k of 0.5.23"]
    origins = [_source(record, "kernels-h100.json"), _source(newer, "kernels-h100-0.5.23.json")]
    return "\n\n".join((table(head, out), *origins))


def pairs() -> str:
    """Answers with prefill rows that choose alone and in pairs, of two records."""
    rows = []
    for name, arms in (
        ("quality-pairs.json", {"paper": ("paper", 1), "paper2": ("paper", 2)}),
        (
            "quality-pairs-4to1.json",
            {
                "alone": ("paper-4to1", 1),
                "pairs": ("paper-4to1", 2),
                "alone8": ("paper-4to1, block 64", 1),
                "pairs8": ("paper-4to1, block 64", 2),
            },
        ),
    ):
        found = _load(name)["rows"]
        contexts = sorted({r["context"] for r in found})
        for arm, (setting, group) in arms.items():
            for context in contexts:
                mine = [r for r in found if (r["arm"], r["context"]) == (arm, context)]
                asked, lost = sum(r["n"] for r in mine), sum(r["lost"] for r in mine)
                rows.append([f"`{setting}`", f"{context // K}K", str(group), str(asked), str(lost)])
    rows.sort(key=lambda row: (row[0], int(row[1][:-1]), row[2]))
    head = ["setting", "context", "`prefill_group`", "questions", "lost against stock"]
    origins = [_source(_load(name), name) for name in ("quality-pairs.json", "quality-pairs-4to1.json")]
    return "\n\n".join((table(head, rows), *origins))


def headline() -> str:
    """TTFT by prompt, a column an arm."""
    record, arms = _load("ab-defaults.json"), ("balanced", "paper")
    found = {(c["arm"], c["cell"]): c for c in record["stats"]["comparisons"] if c["metric"] == "ttft"}
    out = []
    for number, cell in enumerate(record["plan"]["cells"]):
        mine = [found[arm, number] for arm in arms]
        cells = [f"{one['arm_median']:.1f} ({one['speedup']:.2f}×)" for one in mine]
        out.append([tokens(cell["input_tokens"]), f"{mine[0]['baseline_median']:.1f}", *cells])
    head = ["prompt", "stock", *(f"`{arm}`" for arm in arms)]
    return table(head, out) + "\n\n" + _source(record, "ab-defaults.json")


def ab_rank() -> str:
    """One GPU's share of DeepSeek-V3.2 under TP 8: both presets beside one stock, then another GPU."""
    return _ab("ab-defaults", "ab-v32-tp8-rank-h100-paper", "ab-v32-tp8-rank-h100-balanced")


def ab_busy() -> str:
    """The same with four requests at once; the last run has decode-only, and one request at a time, too."""
    return _ab("ab-defaults-four", "ab-v32-tp8-rank-busy", "ab-v32-tp8-rank-grid")


def ab_4l() -> str:
    """Four layers of full width, preset by preset, then the cells that those runs leave out."""
    return _ab(*(f"ab-v32-4l-{run}" for run in ("balanced", "paper", "decode-only", "more")))


def ab_glm5() -> str:
    """Four layers of GLM-5, full width."""
    return _ab("ab-glm5-4l")


def watching() -> str:
    """What the audit costs."""
    return _ab("ab-watching")


def _ab(*names: str) -> str:
    """A table for each record of `hisa ab`, with its origin."""
    parts = []
    for name in names:
        record = _load(f"{name}.json")
        ranks = dict(zip(record["flags"], record["flags"][1:])).get("--tp", "1")
        parts += [table(*ab_tables.medians(record)), _source(record, f"{name}.json", int(ranks))]
    return "\n\n".join(parts)


def ab_256k() -> str:
    """The longest prompts, each measurement by itself: too few for an interval."""
    rows, origins = [], []
    runs = ("256k-decode-only", "h100-256k", "h100-256k-balanced")
    for file in ("ab-defaults-256k.json", *(f"ab-v32-tp8-rank-{run}.json" for run in runs)):
        record = _load(file)
        origins.append(_source(record, file))
        found, arm, prompts = record["measurements"], "", 0
        stock = next(one for one in found if one["arm"] == "stock")["ttft_s"][0]
        for one in found:
            prompts = prompts + 1 if one["arm"] == arm else 1  # a server stays up until another arm's turn
            arm = one["arm"]
            itl, ttft = statistics.median(one["itl_s"]) * 1e3, one["ttft_s"][0]
            name = one["arm"] if one["arm"] == "stock" else f"`{one['arm']}`"
            cells = [f"{ttft:.1f} s", f"{stock / ttft:.2f}×", f"{itl:.1f} ms"]
            gpu, commit = record["provenance"]["gpu"].split()[1], record["provenance"]["commit"]
            rows.append([name, gpu, commit, str(prompts), *cells])
    head = ["256K × 1", "GPU", "commit", "prompt of its server", "TTFT", "stock's / TTFT", "ITL, median"]
    return "\n\n".join((table(head, rows), *origins))


def ab_tp2() -> str:
    """Two GPUs, four layers of full width."""
    return _ab("ab-v32-4l-tp2")


def quality() -> str:
    """Exact answers of the trained model, by task, context and arm."""
    return _answers("quality.json")


def tail() -> str:
    """The same by how many of a prompt's last rows keep everything."""
    record = _load("quality-tail.json")
    of = [[r for r in record["rows"] if r["arm"] == arm] for arm in record["plan"]["arms"]]
    right = [f"{sum(r['accuracy'] * r['n'] for r in rows):.0f} of {sum(r['n'] for r in rows)}" for rows in of]
    return _answers("quality-tail.json", ["all", "", *right])


def _answers(name: str, *more: list[str]) -> str:
    """A row for each task and context of a record, and ``more``."""
    record = _load(name)
    arms, baseline = record["plan"]["arms"], record["plan"]["baseline"]
    found = {(r["task"], r["context"], r["arm"]): r for r in record["rows"]}

    def cell(row: dict[str, Any]) -> str:
        text = f"{row['accuracy']:.0%} [{row['ci_low']:.0%}, {row['ci_high']:.0%}]"
        return f"**{text}**" if row["arm"] != baseline and row["p"] < SURE else text

    places = [(task, context) for task in record["plan"]["tasks"] for context in record["plan"]["contexts"]]
    out = [
        [task, f"{context // K}K", *(cell(found[task, context, arm]) for arm in arms)]
        for task, context in places
    ]
    head = ["task", "context", *(f"`{arm}`" for arm in arms)]
    return table(head, [*out, *more]) + "\n\n" + _source(record, name)


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def pruned() -> str:
    """What the arms of the same record pruned, from their receipts."""
    record = _load("quality.json")
    out = []
    for arm in record["plan"]["arms"]:
        receipt = record["arms"][arm]["receipt"]
        if receipt is None:
            continue
        rows, audit = receipt["rows"], receipt["audit"]
        out.append(
            [
                f"`{arm}`",
                _or_dash(rows["prefill"]["candidate_share"]),
                _or_dash(rows["decode"]["candidate_share"]),
                f"{sum(rows['stock'].values()):,}",
                f"{rows['prefill']['rows'] + rows['decode']['rows']:,}",
                _or_dash(audit["recall"]),
                _or_dash(audit["missed_mass"]),
            ]
        )
    head = [
        "arm",
        "candidate share, prefill",
        "decode",
        "rows served stock",
        "rows by HISA",
        "recall",
        "missed mass",
    ]
    return table(head, out)


def recall() -> str:
    """Kept share of stock's score mass by page summary, the smallest and the middle budget, by layer."""
    record = _load("recall.json")
    budgets = [record["budgets"][0], record["budgets"][len(record["budgets"]) // 2]]
    layers = sorted({row["layer"] for row in record["rows"]})
    found = {(r["variant"], r["budget"], r["layer"]): r for r in record["rows"]}
    out = [
        [
            name,
            f"{found[name, budgets[0], layers[0]]['bytes_a_page']:.0f}",
            *(f"{found[name, budget, layer]['mass']:.2f}" for budget in budgets for layer in layers),
        ]
        for name in dict.fromkeys(row["variant"] for row in record["rows"])
    ]
    head = ["summary", "bytes that a page needs"]
    head += [f"{budget // K}K of {record['context'] // K}K, layer {n}" for budget in budgets for n in layers]
    return table(head, out) + "\n\n" + _cpu_source(record, "recall.json")


def _cpu_source(record: dict[str, Any], name: str) -> str:
    where = record["provenance"]
    source = f"a CPU, torch {where['torch']}, commit {where['commit']}, {where['date'][:10]}"
    return f"<sub>{source}; [`launch/results/{name}`](launch/results/{name})</sub>"


def stress() -> str:
    """What servers were put through with the canary on, by scene, model and arm."""
    record = _load("stress-h100.json")
    where = source(together(record["rows"]), "launch/results/stress-h100.json")
    return "\n\n".join(
        filter(None, (table(*stress_tables.scenes(record)), stress_tables.left(record), where))
    )


def stress_kl() -> str:
    """Answers with a full cache against those with an empty one, HISA beside stock."""
    return table(*stress_tables.warm(_load("stress-h100.json")))


TABLES: dict[str, Callable[[], str]] = {
    "headline": headline,
    "ab_256k": ab_256k,
    "ab_rank": ab_rank,
    "ab_busy": ab_busy,
    "ab_4l": ab_4l,
    "ab_glm5": ab_glm5,
    "ab_tp2": ab_tp2,
    "goals": goals,
    "pairs": pairs,
    "decode": decode,
    "prefill": prefill,
    "quality": quality,
    "tail": tail,
    "watching": watching,
    "pruned": pruned,
    "recall": recall,
    "stress": stress,
    "stress_kl": stress_kl,
}


def made(name: str) -> str:
    """A table with what its records' servers differed by and what of them is not SGLang's default.

    Raises:
        KeyError: a table that does not exist.
    """
    _loaded.clear()
    return "\n\n".join(filter(None, (TABLES[name](), flags.note(_loaded))))


PAGES = ("README.md", "docs/benchmarks.md", "docs/quality.md", "docs/reliability.md", "kernels/NOTES.md")


def render(text: str, page: str = PAGES[0]) -> str:
    """``text`` with what stands between ``<!-- table:NAME -->`` and ``<!-- end -->`` made anew.

    ``page`` is where it stands: links lead from there.

    Raises:
        KeyError: a table that does not exist.
    """

    def fill(match: re.Match[str]) -> str:
        new = made(match[1]).replace("](launch/", f"]({'../' * page.count('/')}launch/")
        return f"<!-- table:{match[1]} -->\n{new}\n<!-- end -->"

    return re.sub(r"<!-- table:(\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Rewrite or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a difference")
    args = parser.parse_args(argv)
    changed = False
    for page in PAGES:
        old = (ROOT / page).read_text()
        new = render(old, page)
        changed |= old != new
        if not args.check:
            (ROOT / page).write_text(new)
    return int(changed and args.check)


if __name__ == "__main__":
    sys.exit(main())
