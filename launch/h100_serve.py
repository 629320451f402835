"""Record of the real server on one GPU: stock and HISA one after the other, same prompts.

    python -m sglang_hisa.launch.h100_serve --out launch/results/h100-serve.json

Rows are merged into ``--out``, so the arms may be run in several calls. ``NAME-audit`` serves the preset with
an audit of its prefill rows, which gives the recall and is not timed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from sglang_hisa.config import environment
from sglang_hisa.launch.provenance import provenance
from sglang_hisa.models import make_slice
from sglang_hisa.server import ServerProcess, child_env

K = 1024
WITHIN_BUDGET = (4000, 8000)
"""Prompts that fit the paper preset's 8192 tokens: HISA must answer as stock does."""
AUDIT = 1 / 128


def flags(model: Path, context: int, dummy: bool = True) -> list[str]:
    """SGLang's flags; FlashMLA everywhere, so that stock and HISA differ in the indexer alone.

    ``dummy``: SGLang makes the weights; False where the model has them.
    """
    return [
        *("--model-path", str(model), "--load-format", "dummy" if dummy else "auto"),
        *("--context-length", str(context)),
        *("--dsa-prefill-backend", "flashmla_sparse", "--dsa-decode-backend", "flashmla_sparse"),
        *("--grammar-backend", "none", "--mem-fraction-static", "0.85", "--skip-server-warmup"),
        *("--max-running-requests", "16", "--chunked-prefill-size", "8192", "--enable-metrics"),
    ]


def setting(arm: str) -> str | None:
    """``SGLANG_HISA`` of an arm."""
    if arm == "stock":
        return None
    preset, _, audited = arm.partition("-audit")
    return json.dumps({"preset": preset, "audit": AUDIT if audited == "" and arm != preset else 0.0})


def prompt(length: int, seed: int) -> list[int]:
    """Random token ids of the byte tokenizer."""
    source = random.Random(seed)
    return [source.randrange(3, 259) for _ in range(length)]


def _audit(server: ServerProcess) -> tuple[float, int]:
    receipt = server.receipts()[0]
    if receipt is None:
        return 0.0, 0
    found = receipt["audit"]
    return (found["recall"] or 0.0) * found["rows"], found["rows"]


def run_arm(arm: str, server: ServerProcess, contexts: list[int], at_once: int) -> dict[str, Any]:
    """Requests of one arm; the answers of the short prompts are kept for the comparison."""
    short = {length: server.generate(prompt(length, 1), 24)["output_ids"] for length in WITHIN_BUDGET}
    rows = []
    for context in contexts:
        server.flush_cache()
        server.generate(prompt(context, 2), 1)
        before = _audit(server)
        times = []
        for seed in range(3):
            begin = time.perf_counter()
            server.generate(prompt(context, 10 + seed), 1)
            times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        with ThreadPoolExecutor(at_once) as pool:
            jobs = [pool.submit(server.generate, prompt(context, 100 + i), 32) for i in range(at_once)]
            answers = [job.result() for job in jobs]
        batch = time.perf_counter() - begin
        assert all(len(answer["output_ids"]) == 32 for answer in answers)
        after = _audit(server)
        audited = after[1] - before[1]
        rows.append(
            {
                "arm": arm,
                "context": context,
                "concurrency": 1,
                "ttft_s": round(sorted(times)[1], 4),
            }
        )
        rows.append(
            {
                "arm": arm,
                "context": context,
                "concurrency": at_once,
                "seconds": round(batch, 3),
                "recall": round((after[0] - before[0]) / audited, 4) if audited else None,
                "audited_rows": audited,
            }
        )
        print(json.dumps(rows[-2:]), flush=True)
    receipt = server.receipts()[0]
    for row in rows:
        row["receipt_active"] = bool(receipt and receipt["active"])
        row["graphs_with_hisa"] = receipt["graphs_with_hisa"] if receipt else 0
    return {"rows": rows, "short": short, "receipt": receipt}


def _progress(arm: str, seconds: float, line: str) -> None:
    print(f"{arm} {seconds:4.0f} s {line[:150]}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the arms and merge their rows into the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=["stock", "paper", "paper-audit"])
    parser.add_argument("--slice", default="v32-4l", help="model slice")
    parser.add_argument("--contexts", type=int, nargs="+", default=[4 * K, 32 * K, 128 * K])
    parser.add_argument("--at-once", type=int, default=16, help="requests of the batch")
    parser.add_argument("--timeout", type=float, default=500, help="seconds a server may take to start")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    record: dict[str, Any] = {"schema_version": 1, "rows": [], "arms": {}}
    if args.out.is_file():
        record = json.loads(args.out.read_text())
    with tempfile.TemporaryDirectory() as folder:
        model = make_slice(args.slice, Path(folder) / "model")
        for arm in args.arms:
            env = child_env(
                environment(),
                setting(arm),
                SGLANG_DSA_PREFILL_DENSE_ATTN_KV_LEN_THRESHOLD="0",
                HF_HUB_OFFLINE="1",
            )
            log = args.out.with_name(f"h100-serve-{arm}.log")
            top = max(args.contexts) + 64
            with ServerProcess(flags(model, top), env=env, log=log) as server:
                seconds = server.wait_ready(args.timeout, partial(_progress, arm), every=5)
                print(f"{arm}: ready after {seconds:.0f} s", flush=True)
                found = run_arm(arm, server, args.contexts, args.at_once)
            record["rows"] = [r for r in record["rows"] if r["arm"] != arm] + found.pop("rows")
            record["arms"][arm] = {"ready_s": round(seconds), **found}
            stock = record["arms"].get("stock")
            for row in record["rows"]:
                if row["arm"] != "stock" and stock and row["arm"] in record["arms"]:
                    ours = record["arms"][row["arm"]]["short"]
                    theirs = stock["short"]
                    row["equals_stock_within_budget"] = {str(k): v for k, v in ours.items()} == {
                        str(k): v for k, v in theirs.items()
                    }
            record["model"] = args.slice
            record["provenance"] = provenance()
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(record, indent=1) + "\n")
    wrong = [r for r in record["rows"] if r["arm"] != "stock" and not r["receipt_active"]]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
