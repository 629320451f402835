"""The index of launch/results, a flat folder of records, and the way in for a new A/B.

examples:
  python -m sglang_hisa.launch.pages.results
                                        write its README.md anew
  python -m sglang_hisa.launch.pages.results --check
                                        exit 1 if it would change
  python -m sglang_hisa.launch.pages.results add DIR...
                                        keep what `hisa ab --out DIR` measured
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sglang_hisa.launch.ab import report
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common.help import Help
from sglang_hisa.launch.common.record import Record, load
from sglang_hisa.launch.eval.record import EvalRecord
from sglang_hisa.launch.pages import write
from sglang_hisa.launch.pages.ab_tables import load_of, subject
from sglang_hisa.launch.pages.build import listed
from sglang_hisa.launch.pages.reader import RESULTS

INDEX = "README.md"


def main(argv: list[str] | None = None, folder: Path = RESULTS) -> int:
    """Write or check the index, or add records first."""
    parser = write.parser("results", __doc__, "[add DIR...]")
    adding = parser.add_subparsers(dest="command", prog=parser.prog).add_parser(
        "add",
        help="keep records of hisa ab",
        description="Keep what `hisa ab --out DIR` measured, and write the index anew.",
        epilog="example:\n  python -m sglang_hisa.launch.pages.results add /tmp/ab-h200",
        formatter_class=Help,
    )
    adding.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of `hisa ab --out`")
    args = parser.parse_args(argv)
    try:
        for each in args.folders if args.command else ():
            print("\n".join(f"wrote {path}" for path in report.keep(each, folder)))
        return write.write({folder / INDEX: render(folder)}, args.check)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def render(folder: Path = RESULTS) -> str:
    """The page with its index: a line for each record of ``folder``, with what belongs to it (``RECORD.*``).

    Raises:
        ValueError: a folder, a file that is no record and belongs to none, or a record of an unknown kind.
    """
    paths = sorted((path for path in folder.iterdir() if path.name != INDEX), key=lambda path: path.stem)
    stems = tuple(f"{path.stem}." for path in paths if path.suffix == ".json")
    beside = [path for path in paths if path.suffix != ".json" and path.name.startswith(stems)]
    page = (folder / INDEX).read_text()
    index = listed(
        [(path, _read(path, page.partition("<!-- table")[0])) for path in paths if path not in beside],
        ("record", lambda row: _links(row[0], beside)),
        ("arms and loads", lambda row: _compared(*row)),
        ("GPU", lambda row: ", ".join(row[1].origin.gpus)),
        ("SGLang", lambda row: row[1].origin.sglang or "–"),
        ("commit", lambda row: row[1].origin.commit or "–"),
        ("date", lambda row: row[1].origin.day),
    )
    return write.filled(page, lambda *_: index)


def _links(path: Path, beside: list[Path]) -> str:
    """To a record and what belongs to it: plots, and notes by their names in words."""
    links = [f"[`{path.stem if path.suffix == '.json' else path.name}`]({path.name})"]
    for other in beside:
        if other.name.startswith(f"{path.stem}."):
            words = other.stem.removeprefix(f"{path.stem}.").replace("-", " ")
            links.append(f"[{'plot' if other.suffix == '.png' else words}]({other.name})")
    return ", ".join(links)


def _read(path: Path, told: str) -> Record:
    """A record, whose kind the page has to tell."""
    kind = re.split(r"\W", path.name)[0]
    if f"`{kind}`" not in told:
        name = f"name it RECORD.{path.name} if it belongs to a record"
        raise ValueError(f"{path.name}: say in {INDEX} what `{kind}` records show, or {name}")
    planned: dict[str, type[Record]] = {"ab": AbRecord, "quality": EvalRecord}
    return load(path, planned.get(kind, Record))


def _compared(path: Path, record: Record) -> str:
    """What a record compares, if it has a plan: an A/B on which model and loads."""
    if isinstance(record, EvalRecord):
        return ", ".join(record.plan.arms)
    if not isinstance(record, AbRecord):
        return ""
    plan = record.plan
    arms = ", ".join(f"`{arm}`" for arm in plan.others) or "the same again"
    cells = ", ".join(load_of(cell) + " shared" * bool(cell.prefix_tokens) for cell in plan.cells)
    cut = ", refused" if record.refusals else "" if record.complete else ", cut off"
    rounds = f"{plan.rounds} round" + "s" * (plan.rounds > 1)
    return f"{arms} on {subject(path.stem, record)}: {cells}; {rounds}{cut}"


if __name__ == "__main__":
    sys.exit(main())
