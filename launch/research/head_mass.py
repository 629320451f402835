"""How many index heads carry the score: the share of a row's best heads in it, offline.

  python -m sglang_hisa.launch.research.head_mass --out FILE \\
      launch/research/retriever

Of rows that predict the answers of `hisa eval`'s questions, and others: the share that few heads have in the
scores of the tokens that stock chooses. routed: heads of the largest weights, which `prefill_heads`
takes; most: those that have the most, which nobody knows before they are scored.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.progress import track

from sglang_hisa.launch.common.files import save
from sglang_hisa.launch.common.help import tool
from sglang_hisa.launch.common.provenance import Provenance, provenance
from sglang_hisa.launch.common.record import Record, Row
from sglang_hisa.launch.research.heads import Place
from sglang_hisa.launch.research.recall_heads import places
from sglang_hisa.launch.research.rows import Trained, load, projections

TASKS = ("needle", "multikey-2")
K = 1024


def shares(place: Place, rows: slice) -> torch.Tensor:
    """Sums of the best 1, 2, ... heads, means over ``rows``: by weight, and the most, ``[2, heads]``."""
    by_head = place.by_head[rows]
    order = place.parts[1][rows].abs().argsort(dim=1, descending=True)
    found = torch.stack((by_head.gather(1, order), by_head.sort(dim=1, descending=True).values))
    return found.cumsum(dim=2).mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class HeadMassRow(Row):
    """Shares of ``heads`` of a layer's ``of`` heads, the mean over ``places``."""

    model: str
    kind: str
    """``answer``: rows that predict an answer; or other rows."""
    layer: int
    heads: int
    of: int
    places: int
    routed: float
    most: float


@dataclass(frozen=True, kw_only=True)
class HeadMassRecord(Record):
    """Of all models, and how they were asked."""

    kind: str = "hisa-head-mass"
    tasks: tuple[str, ...] = ()
    context: int = 0
    topk: int = 0
    samples: int = 0
    seed: int = 0
    rows: tuple[HeadMassRow, ...] = ()


@torch.no_grad()
def measure(name: str, trained: Trained, how: HeadMassRecord) -> list[HeadMassRow]:
    """A row for each kind of rows, layer, and number of heads that is a power of two."""
    sums: dict[tuple[str, int], list[torch.Tensor]] = {}
    for sample in track(trained.prompts([*how.tasks], how.context, how.samples, how.seed), "prompts"):
        for layer, parts in enumerate(projections(trained, sample)):
            for kind, rows, place in places(parts, sample, how.topk):
                sums.setdefault((kind, layer), []).append(shares(place, rows))
    heads = trained.model.shape.index_heads
    counts = [1 << n for n in range(heads.bit_length()) if 1 << n <= heads]
    made: list[HeadMassRow] = []
    for (kind, layer), found in sorted(sums.items()):
        routed, most = torch.stack(found).mean(dim=0).tolist()
        made += [
            HeadMassRow(
                model=name,
                kind=kind,
                layer=layer,
                heads=count,
                of=heads,
                places=len(found),
                routed=routed[count - 1],
                most=most[count - 1],
            )
            for count in counts
        ]
    return made


def main(argv: list[str] | None = None) -> int:
    """Write the record and print the answers' shares."""
    parser = tool("research.head_mass", "--out FILE MODEL...", __doc__)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="folders of trained models")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="record (.json)")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="TASK", help="of `hisa eval`")
    parser.add_argument("--context", type=int, default=8 * K, help="tokens of a prompt")
    parser.add_argument("--topk", type=int, default=512, help="tokens that a row attends to")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="prompts of each task and depth")
    parser.add_argument("--seed", type=int, default=77, help="of the prompts")
    args = parser.parse_args(argv)
    if not 0 < args.topk < args.context // 2:
        parser.error("--topk must be below half of the context")
    record = HeadMassRecord(
        provenance=Provenance(**provenance()),
        tasks=tuple(args.tasks),
        context=args.context,
        topk=args.topk,
        samples=args.samples,
        seed=args.seed,
    )
    for folder in args.models:
        trained = load(folder)
        if problem := trained.unknown(args.tasks):
            parser.error(f"{folder}: {problem}")
        found = measure(folder.name, trained, record)
        record = replace(record, rows=(*record.rows, *found))
        save(record.as_json(), args.out.parent, args.out.name)
        for row in found:
            if row.kind == "answer":
                print(
                    f"{row.model:12} layer {row.layer} {row.heads:3} of {row.of:3} heads: "
                    f"routed {row.routed:.3f}, most {row.most:.3f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
