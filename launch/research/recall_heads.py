"""Candidates x heads, offline: which choice of a trained model survives which saving.

  python -m sglang_hisa.launch.research.recall_heads --out FILE \\
      --device cuda launch/research/retriever

Rows that predict the answers of `hisa eval`'s questions, and sixteen others of each prompt at three quarters
of it: the share of stock's tokens and of their softmax mass that each way of saving keeps, by layer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.progress import track

from sglang_hisa.launch.common.help import tool
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.eval.heads_record import HeadsRecord, KeptBy
from sglang_hisa.launch.eval.tasks import Sample
from sglang_hisa.launch.research.heads import Place, Way, ways
from sglang_hisa.launch.research.rows import Parts, Trained, load, projections
from sglang_hisa.launch.research.scorers import fp8

TASKS = ("needle", "multikey-2", "multikey-3", "tracking")
K = 1024
GROUP = 16
"""Largest group; places begin at a multiple of it."""
OTHERS = (0.75,)
"""Places of other rows, as shares of the prompt."""


def places(parts: Parts, sample: Sample, topk: int) -> Iterator[tuple[str, slice, Place]]:
    """Kind, which of its rows count, and the place: where the answer is predicted, and others."""
    query, weights, key = parts
    first = sample.context - 1
    start = first // GROUP * GROUP
    spans = [("answer", start, query.shape[0] - 1, slice(first - start, None))]
    for share in OTHERS:
        at = int(first * share) // GROUP * GROUP
        spans.append(("other", at, at + GROUP, slice(None)))
    for kind, begin, end, rows in spans:
        if begin > topk:
            here = (fp8(query[begin:end].float()), weights[begin:end].float(), fp8(key[:begin].float()))
            yield kind, rows, Place(here, topk)


@torch.no_grad()
def measure(
    trained: Trained, asked: list[str], context: int, topk: int, samples: int, seed: int
) -> list[KeptBy]:
    """A row for each way, kind of rows and layer, over all tasks and depths."""
    sums: dict[tuple[Way, str, int], list[tuple[float, float]]] = {}
    heads = trained.model.shape.index_heads
    asked_of = list(ways(context, heads, topk))
    questions = trained.prompts(asked, context, samples, seed)
    for sample in track(questions, f"{context // K}K prompts"):
        for layer, parts in enumerate(projections(trained, sample)):
            for kind, rows, place in places(parts, sample, topk):
                for way in asked_of:
                    sums.setdefault((way, kind, layer), []).append(place.kept(way, rows))
    return [
        KeptBy(
            **{"context": context, "kind": kind, "layer": layer, **asdict(way)},
            arithmetic=way.arithmetic(context, heads),
            keys=way.keys(context),
            recall=sum(pair[0] for pair in pairs) / len(pairs),
            mass=sum(pair[1] for pair in pairs) / len(pairs),
            places=len(pairs),
        )
        for (way, kind, layer), pairs in sums.items()
    ]


def table(rows: list[KeptBy], kind: str = "answer") -> list[tuple[str, float, float, list[float]]]:
    """Of each way: its name, arithmetic, keys, and the kept mass of each layer, by arithmetic."""
    found: dict[str, tuple[float, float, list[float]]] = {}
    for row in sorted((r for r in rows if r.kind == kind), key=lambda r: (r.arithmetic, r.layer)):
        words = [f"{row.tokens} x {row.heads} heads, {row.group} rows"]
        words += [f"router {row.router}"] * (row.router != "weight")
        words += [f"best {row.rescored} by all"] * bool(row.rescored)
        words += [f"pages by {row.coarse_heads}"] * bool(row.coarse_heads)
        at = found.setdefault(", ".join(words), (row.arithmetic, row.keys, []))
        at[2].append(row.mass)
    return [(name, *values) for name, values in found.items()]


def main(argv: list[str] | None = None) -> int:
    """Write the record and print the answers' table."""
    parser = tool("research.recall_heads", "--out FILE MODEL", __doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a trained model")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="record (.json)")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK", help="of `hisa eval`")
    parser.add_argument("--contexts", type=int, nargs="+", default=[8 * K], help="tokens of a prompt")
    parser.add_argument("--topk", type=int, default=2 * K, help="tokens that a row attends to")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="prompts of each task and depth")
    parser.add_argument("--seed", type=int, default=77, help="of the prompts")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args(argv)
    if not 0 < args.topk < min(args.contexts) // 2:
        parser.error("--topk must be below half of the shortest context")
    trained = load(args.model)
    if problem := trained.unknown(args.tasks):
        parser.error(problem)
    trained.model.to(args.device)
    record = HeadsRecord(
        provenance=Provenance(**provenance()),
        tasks=tuple(args.tasks),
        contexts=tuple(args.contexts),
        topk=args.topk,
        samples=args.samples,
        seed=args.seed,
        heads=trained.model.shape.index_heads,
    )
    for context in args.contexts:
        rows = measure(trained, args.tasks, context, args.topk, args.samples, args.seed)
        record = replace(record, rows=(*record.rows, *rows))
        args.out.write_text(json.dumps(record.as_json(), indent=1) + "\n")
        for name, arithmetic, keys, mass in table(rows):
            print(f"{context // K:4}K {name:52} {arithmetic:6.3f} {keys:6.3f}", *(f"{m:.3f}" for m in mass))
    return 0


if __name__ == "__main__":
    sys.exit(main())
