"""Write the tables of README, docs and kernel notes from launch/results, so that no figure is typed in.

  python -m sglang_hisa.launch.pages.tables          rewrite them
  python -m sglang_hisa.launch.pages.tables --check  exit 1 if it would change

A table stands below its mark, <!-- table:NAME WANTED -->: WANTED is the subject of an A/B (subject() in
launch/pages/ab_tables.py) or a pattern of names. Without it a table has all records of its kind.
"""

from __future__ import annotations

import sys

from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.acceptance.stress.record import StressRecord
from sglang_hisa.launch.bench.frontier_record import FrontierRecord
from sglang_hisa.launch.bench.record import KernelRecord
from sglang_hisa.launch.common import flags, text
from sglang_hisa.launch.common.record import Record
from sglang_hisa.launch.eval.heads_record import HeadsRecord
from sglang_hisa.launch.eval.record import EvalRecord
from sglang_hisa.launch.pages import ab_tables, answer_tables, changed, kernel_tables, stress_tables, write
from sglang_hisa.launch.pages.reader import ROOT, Parts, Table, each, newest


def _headline(_: str) -> Parts:
    found = {**newest(AbRecord, "ab-served"), **newest(AbRecord, "ab-many")}
    return [(ab_tables.headline(*found.values()), {**found})]


TABLES: dict[str, Table] = {
    "headline": _headline,
    "ab": each(AbRecord, "ab-*", ab_tables.medians, ab_tables.subject),
    "many": each(AbRecord, "ab-*", ab_tables.many, ab_tables.subject),
    "decode": each(KernelRecord, "kernels-*", kernel_tables.decode),
    "budgets": each(KernelRecord, "kernels-*", kernel_tables.budgets),
    "prefill": each(KernelRecord, "kernels-*", kernel_tables.prefill),
    "goals": kernel_tables.goals,
    "frontier": each(FrontierRecord, "frontier-*", kernel_tables.frontier),
    "answers": each(EvalRecord, "quality*", answer_tables.answers),
    "sums": each(EvalRecord, "quality*", answer_tables.sums),
    "pruned": each(EvalRecord, "quality*", answer_tables.pruned),
    "heads": each(HeadsRecord, "recall-heads*", answer_tables.heads),
    "stress": each(StressRecord, "stress-*", stress_tables.stress),
}
PAGES = ("README.md", "docs/benchmarks.md", "docs/quality.md", "docs/reliability.md", "kernels/NOTES.md")


def made(name: str, wanted: str = "") -> str:
    """A table, the origin of its records, and notes: flags and weights of servers, presets that changed.

    Raises:
        KeyError: a table that does not exist.
        ValueError: ``launch/results`` has nothing of what is wanted.
    """
    records: dict[str, Record] = {}
    lines: list[str] = []
    for said, of in TABLES[name](wanted):
        paths = {f"launch/results/{name}.json": record for name, record in of.items()}
        lines += [said, *(text.source(one.origin, at, flags.ranks(one)) for at, one in paths.items())]
        records |= of
    if not records:
        raise ValueError(f"launch/results has no record for table:{name} {wanted}")
    notes = (flags.note(records), changed.note(records), changed.crowded(records))
    return "\n\n".join(filter(None, (*lines, *notes)))


def render(written: str, page: str = PAGES[0]) -> str:
    """``written`` with its tables made anew; raises as :func:`made`.

    ``page`` is where it stands: links lead from there.
    """
    up = f"]({'../' * page.count('/')}launch/"
    return write.filled(written, lambda name, wanted: made(name, wanted).replace("](launch/", up))


def main(argv: list[str] | None = None) -> int:
    """Rewrite or check the pages."""
    args = write.parser("tables", __doc__).parse_args(argv)
    pages = {ROOT / page: render((ROOT / page).read_text(), page) for page in PAGES}
    return write.write(pages, args.check)


if __name__ == "__main__":
    sys.exit(main())
