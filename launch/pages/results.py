"""The index of launch/results, a flat folder of records, and the way in for a new A/B.

python -m sglang_hisa.launch.pages.results             write launch/results/README.md anew
python -m sglang_hisa.launch.pages.results --check     exit 1 if it would change
python -m sglang_hisa.launch.pages.results add DIR...  keep what `hisa ab --out DIR` measured
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from sglang_hisa.launch.ab import report
from sglang_hisa.launch.ab.record import AbRecord
from sglang_hisa.launch.common import files, flags
from sglang_hisa.launch.common.record import Record, load
from sglang_hisa.launch.common.text import table
from sglang_hisa.launch.pages import write
from sglang_hisa.launch.pages.reader import ROOT

RESULTS = ROOT / "launch" / "results"
STEPS = ROOT / "launch" / "records_h100.sh"
INDEX = "README.md"

ABOUT = """\
# Records

A file each: JSON with `provenance` and `rows` ([docs/design.md](../../docs/design.md#records)), or what tests
printed below their provenance. `python -m sglang_hisa.launch.pages.results` writes this page.

- `python -m sglang_hisa.launch.pages.results add DIR` keeps what `hisa ab --out DIR` measured, under that
  folder's name, and its notes (`*.txt`) beside it.
- Reports are not kept but made again: `hisa ab --from launch/results/ab-NAME.json --out DIR` (HTML, Markdown,
  plots), `hisa eval --from launch/results/quality.json --out DIR` (plots), and
  `hisa bench kernels --render launch/results/kernels-h100.json` (CSV and plot beside it).
- Commands are those that were run, at the commit beside them, without the folders of the machine.
  `hisa model slice NAME model-NAME` makes the model of a `hisa ab`, and `launch/records_h100.sh` says which
  variables it needs. *Cut off*: it ended before its plan did.
"""

_RECALL = "trained model, offline: stock's score mass that is kept by"
SHOWS = {
    "coverage-h100.json": "feature after feature beside stock, one GPU",
    "coverage-h200-0.5.23.json": "feature after feature beside stock, one GPU, SGLang 0.5.23",
    "frontier-h200.json": "a prefill layer by candidates, heads and rows that share pages, stage by stage",
    "h100-serve.json": "a server with stock DSA and with `paper`: graphs, receipt, audit",
    "kernels-h100-0.5.23.json": "indexer layers with SGLang 0.5.23's top-k in both arms, blocks of 128",
    "kernels-h100.json": "indexer layers, stock against HISA, and the floor that memory bandwidth sets",
    "property-0.5.17.json": "random histories of SGLang's cache: summaries and candidates",
    "property-0.5.23.json": "random histories of SGLang's cache: summaries and candidates",
    "property-long.json": "random histories of SGLang's cache, the long run",
    "quality-first.json": "answers of the trained model, before the default budget was raised",
    "quality-pairs-4to1.json": "answers by prefill rows alone or in pairs, a quarter of the context kept",
    "quality-frontier.json": "answers by candidates and share of the heads, with a dense end",
    "quality-pairs.json": "answers by prefill rows alone or in pairs",
    "quality-tail.json": "answers by how many of a prompt's last rows keep everything",
    "quality.json": "answers of the trained model, preset by preset",
    "recall-heads.json": f"{_RECALL} candidates, heads and groups of rows",
    "recall-neighbours.json": f"{_RECALL} adjacent prefill rows that share their pages",
    "recall-policies-32k.json": f"{_RECALL} two levels of summaries, prompts of 32K",
    "recall-policies.json": f"{_RECALL} three other ways to choose",
    "recall.json": f"{_RECALL} each page summary",
    "sanitizer-h100.txt": "kernel tests under compute-sanitizer",
    "stress-h100-first.json": "an older stress record, with the fault that it found",
    "stress-h100.json": "random prefixes, aborts, pauses, retractions, HiCache, with the canary on",
    "stress-h200-0.5.23.json": "the same with SGLang 0.5.23, side by side on one GPU",
    "tests-h200-kernels.txt": "kernel tests, routed heads and groups of up to 16 rows among them",
    "tests-h100.txt": "tests that need a GPU: kernels, SGLang's own attention tests",
    "tune-h100.json": "launch settings of the kernels, one by one",
    "tune-layers-h100.json": "launch settings of the kernels, by whole layers",
    "two-gpu.json": "feature after feature beside stock, two GPUs",
}
"""Of what is no A/B, whose plan says what it shows."""


def main(argv: list[str] | None = None, folder: Path = RESULTS) -> int:
    """Write or check the index, or add records first."""
    parser = write.parser(__doc__)
    adding = parser.add_subparsers(dest="command").add_parser("add", help="keep records of hisa ab")
    adding.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of `hisa ab --out`")
    args = parser.parse_args(argv)
    try:
        for each in args.folders if args.command else ():
            print("\n".join(f"wrote {path}" for path in add(each, folder)))
        return write.write({folder / INDEX: render(folder)}, args.check)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def add(source: Path, folder: Path = RESULTS) -> list[Path]:
    """Keep the A/B record of ``source``, whose statistics are made anew, and its notes; the paths written.

    Times of single tokens are left out where requests share a prefix (``launch/common/steady.py``).
    A record of that name is replaced, with its notes.

    Raises:
        OSError: no record there.
        ValueError: another kind of record, or a name that does not start with ``ab-``.
    """
    source = source.resolve()
    if not source.name.startswith("ab-"):
        raise ValueError(f"{source}: the record takes the folder's name, which has to start with ab-")
    record = report.again(source)
    for old in folder.glob(f"{source.name}.*"):
        old.unlink()
    for one in record["measurements"]:
        if record["plan"]["cells"][one["cell"]].get("prefix_tokens"):
            one["itl_s"] = []  # the window's numbers stand for the times of thousands of tokens
    written = [files.save(record, folder, f"{source.name}.json")]
    for note in sorted(source.glob("*.txt")):
        written.append(folder / f"{source.name}.{note.name}")
        written[-1].write_text(note.read_text())
    return written


def render(folder: Path = RESULTS) -> str:
    """The index: a line for each record of ``folder``, with what belongs to it (``RECORD.*``).

    Raises:
        ValueError: a file that nothing says the meaning of, or a folder.
    """
    paths = sorted((path for path in folder.iterdir() if path.name != INDEX), key=lambda path: path.stem)
    records = [path for path in paths if path.suffix == ".json" or path.name in SHOWS]
    beside = {
        record: [path for path in paths if path not in records and path.name.startswith(f"{record.stem}.")]
        for record in records
    }
    known = {*records, *(path for found in beside.values() for path in found)}
    if strange := [path.name for path in paths if path not in known or path.is_dir()]:
        raise ValueError(f"no record, nor beside one: {', '.join(strange)}; name it RECORD.{strange[0]}")
    head = ("record", "shows", "GPU", "SGLang", "commit", "date", "made by")
    rows = [_line(record, found) for record, found in beside.items()]
    return f"{ABOUT}\n{table(head, rows)}\n"


def _line(path: Path, beside: list[Path]) -> list[str]:
    record = load(path, Record)
    where = record.origin
    links = [f"[`{path.stem if path.suffix == '.json' else path.name}`]({path.name})"]
    links += [f"[{_word(path, other)}]({other.name})" for other in beside]
    versions = (where.sglang or "–", where.commit or "–", where.day)
    shows = _plan(load(path, AbRecord)) if record.kind == AbRecord.kind else SHOWS.get(path.name)
    if shows is None:
        raise ValueError(f"{path.name}: say in SHOWS ({Path(__file__).name}) what it shows")
    return [", ".join(links), shows, ", ".join(where.gpus), *versions, _command(path, record)]


def _word(record: Path, beside: Path) -> str:
    """``plot``, or a note's name in words."""
    if beside.suffix == ".png":
        return "plot"
    return beside.stem.removeprefix(f"{record.stem}.").replace("-", " ")


def _plan(record: AbRecord) -> str:
    """What an A/B compares, on which model and load."""
    plan = record.plan
    arms = ", ".join(f"`{arm}`" for arm in plan.others) or "the same again"
    loads: dict[str, list[str]] = {}
    for cell in plan.cells:
        loads.setdefault(cell.prompt, []).append(str(cell.concurrency))
    cells = ", ".join(f"{prompt} × {'/'.join(at_once)}" for prompt, at_once in loads.items())
    model = Path(record.model).name.removeprefix("model-")
    cut = ", refused" if record.refusals else "" if record.complete else ", cut off"
    ranks = flags.ranks(record)
    on = f"`{model}`" + (f", TP {ranks}" if ranks > 1 else "")
    return f"{arms} against `{plan.baseline}` on {on}: {cells}; {plan.rounds} rounds{cut}"


def _command(path: Path, record: Record) -> str:
    """What makes it again: the one command, or the steps of the script that made it in several."""
    made = rf"^#   (\S+) .*-> .*OUT/{re.escape(path.name)}(?:,|$)"
    steps = re.findall(made, STEPS.read_text(), re.MULTILINE)
    commands = record.commands or (record.provenance.command or "",)
    if steps and (path.suffix == ".txt" or len(commands) > 1):
        return ", ".join(f"`launch/records_h100.sh {step} OUT`" for step in steps)
    more = f" and {len(commands) - 1} more (`commands`)" if len(commands) > 1 else ""
    return f"`{again(commands[0])}`{more}"


def again(command: str) -> str:
    """A recorded command as it is typed in a checkout: modules by name, without the machine's folders.

    Raises:
        ValueError: it ran no module of this project.
    """
    program, *words = shlex.split(command)
    if program == "python" and words[:2] == ["-m", "pytest"]:  # typed already
        return command
    module = re.search(r"(?:^|/)((?:sglang_hisa/cli|launch|tests)(?:/\w+)*?)(?:/__main__)?\.py$", program)
    if module is None and Path(program).name != "hisa":
        raise ValueError(f"no module of this project: {command}")
    name = "launch/cli" if module is None else module[1]
    cli = ("launch/cli", "sglang_hisa/cli")  # where it is, and where it was for older records
    started = "hisa" if name in cli else f"python -m {_importable(name)}"
    return f"{started} {shlex.join(_near(word) for word in words)}"


def _importable(name: str) -> str:
    return ("" if name.startswith("tests/") else "sglang_hisa.") + name.replace("/", ".")


def _near(word: str) -> str:
    """A path without the machine's folders; another word as it is."""
    if not word.startswith(("/", ".", "out/")):
        return word
    return word[word.index("launch/") :] if "launch/" in word else Path(word).name


if __name__ == "__main__":
    sys.exit(main())
