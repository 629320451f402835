"""What pruning misses, offline: index scores of a trained model, block choices at equal budgets.

  python -m sglang_hisa.launch.research.recall --out recall.json \\
      launch/research/retriever

The rows are those that predict the answers of `hisa eval`'s questions. Of each, the choice of every variant
(launch/research/scorers.py) is compared with the whole context: recall is the share of stock's top-k that is
kept, mass the kept share of its softmax (the indexer was trained to be the attention's distribution).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from sglang_hisa.launch.common import figures
from sglang_hisa.launch.common.help import tool
from sglang_hisa.launch.common.provenance import provenance
from sglang_hisa.launch.research.rows import Parts, Trained, layers_of, load
from sglang_hisa.launch.research.scorers import VARIANTS, Variant, token_scores

TASKS = ("needle", "multikey-2", "multikey-3", "tracking")
K = 1024


def kept_tokens(variant: Variant, parts: Parts, scores: torch.Tensor, budget: int) -> torch.Tensor:
    """Tokens that a budget keeps, bool ``[rows, tokens]``: first block, best blocks, and the tail."""
    query, weights, key = parts
    whole = key.shape[0] // variant.block - 1
    blocks = key[: whole * variant.block].unflatten(0, (whole, variant.block))
    value = variant.score(blocks, query, weights)
    if variant.previous:
        best = scores[:-1].topk(variant.previous, dim=1).indices // variant.block
        for row, chosen in enumerate(best, start=1):
            value[row, chosen[chosen < whole]] = float("inf")
    value[:, 0] = float("inf")
    picked = value.topk(min(budget // variant.block - 2, whole), dim=1).indices
    kept = torch.zeros_like(value, dtype=torch.bool).scatter_(1, picked, True)
    kept = kept.repeat_interleave(variant.block, dim=1)
    return torch.nn.functional.pad(kept, (0, key.shape[0] - kept.shape[1]), value=True)


def compare(parts: Parts, budget: int, topk: int) -> dict[str, tuple[float, float]]:
    """Recall and mass of each variant, means over the rows."""
    query, weights, key = parts
    scores = token_scores(query, weights, key)
    stock = torch.zeros_like(scores, dtype=torch.bool)
    stock.scatter_(1, scores.topk(topk, dim=1).indices, True)
    mass = scores.softmax(dim=1) * stock
    found = {}
    for variant in VARIANTS:
        hit = kept_tokens(variant, parts, scores, budget) & stock
        share = (mass * hit).sum(dim=1) / mass.sum(dim=1)
        found[variant.name] = (hit.sum(dim=1) / topk).mean().item(), share.mean().item()
    return found


def measure(
    trained: Trained, asked: list[str], context: int, budgets: list[int], topk: int, samples: int, seed: int
) -> list[dict[str, Any]]:
    """A row for each variant, budget and layer, over all tasks and depths."""
    sums: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    for sample in track(trained.prompts(asked, context, samples, seed), "prompts"):
        for number, parts in enumerate(layers_of(trained, sample)):
            for budget in budgets:
                for name, pair in compare(parts, budget, topk).items():
                    sums.setdefault((name, budget, number), []).append(pair)
    bytes_of = {variant.name: 132 * variant.vectors for variant in VARIANTS}
    return [
        {
            "variant": name,
            "budget": budget,
            "layer": layer,
            "bytes_a_page": bytes_of[name],
            "recall": sum(p[0] for p in pairs) / len(pairs),
            "mass": sum(p[1] for p in pairs) / len(pairs),
            "prompts": len(pairs),
        }
        for (name, budget, layer), pairs in sums.items()
    ]


def plot(record: dict[str, Any], path: Path) -> None:
    """Kept mass against budget, a panel for each layer. Raises ``ImportError`` without matplotlib."""
    plt = figures.pyplot()
    layers = sorted({row["layer"] for row in record["rows"]})
    figure, axes = plt.subplots(
        1, len(layers), figsize=(4 * len(layers), 3.6), sharey=True, layout="constrained"
    )
    for layer, axis in zip(layers, axes):
        for style, variant in enumerate(VARIANTS):
            mine = [r for r in record["rows"] if (r["variant"], r["layer"]) == (variant.name, layer)]
            mine.sort(key=lambda row: row["budget"])
            line = ["-o", "--s", ":^"][style % 3]
            axis.plot([r["budget"] for r in mine], [r["mass"] for r in mine], line, label=variant.name, ms=4)
        axis.set(title=f"layer {layer}", xlabel=f"budget (tokens of {record['context'] // K}K)", xscale="log")
        axis.set_xticks(record["budgets"], [f"{b // K}K" for b in record["budgets"]])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("kept share of stock's mass")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Write the record and its plot."""
    parser = tool("research.recall", "--out FILE MODEL", __doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a trained model")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="record (.json; .png beside it)"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK", help="of `hisa eval`")
    parser.add_argument("--context", type=int, default=16 * K, help="tokens of a prompt")
    parser.add_argument(
        "--budgets",
        type=int,
        nargs="+",
        default=[3 * K, 4 * K, 6 * K, 8 * K, 12 * K],
        help="tokens that are kept",
    )
    parser.add_argument("--topk", type=int, default=2 * K, help="tokens that a row attends to")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="prompts of each task and depth")
    parser.add_argument("--seed", type=int, default=77, help="of the prompts")
    args = parser.parse_args(argv)
    least = 3 * max(variant.block for variant in VARIANTS)
    if (
        not least <= min(args.budgets) <= max(args.budgets) <= args.context
        or not 0 < args.topk < args.context
    ):
        parser.error(f"budgets must lie between {least} and the context, --topk below the context")
    trained = load(args.model)
    if problem := trained.unknown(args.tasks):
        parser.error(problem)
    record = {"schema_version": 1, "kind": "hisa-recall", "provenance": provenance(), "context": args.context}
    record |= {key: getattr(args, key) for key in ("tasks", "budgets", "topk", "samples", "seed")}
    given = (args.tasks, args.context, args.budgets, args.topk, args.samples, args.seed)
    record["rows"] = measure(trained, *given)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    plot(record, args.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
