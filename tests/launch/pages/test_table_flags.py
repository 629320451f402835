"""Records that a table puts side by side come from servers of the same flags, or the table names the flag."""

import json
import re
import shlex

import pytest

from sglang_hisa.launch.common import flags
from sglang_hisa.launch.common.provenance import Provenance
from sglang_hisa.launch.common.record import Record, Row
from sglang_hisa.launch.pages import tables

PREFILL_GRAPHS_OFF = ("--disable-prefill-cuda-graph", "--cuda-graph-backend-prefill disabled")
COMMANDS = {
    "ab": "launch/cli/ab.py",
    "eval": "launch/cli/eval.py",
    "stress": "launch/acceptance/stress/__main__.py",
}


def own_options(command):
    """Options of our commands, from their sources."""
    source = (tables.ROOT / COMMANDS[command]).read_text()
    if "records.add_options(" in source:  # those that commands share
        source += (tables.ROOT / "launch/cli/records.py").read_text()
    own = set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", source))
    return own | {"--slice"} if command == "stress" else own


def started_with(command):
    """Flags of the servers that a command started, with their values; None if it started none."""
    words = shlex.split(command)
    name = "stress" if "stress" in words[0] else words[1] if len(words) > 1 else ""
    if name not in COMMANDS:
        return None
    texts = re.split(r" (?=--)", " ".join(words[1:]))
    pairs = [text.partition(" ") for text in texts if text.startswith("--")]
    return {flag: value for flag, _, value in pairs if flag not in own_options(name)}


MARKS = re.findall(
    r"<!-- table:(\w+) ?([^\n]*?) ?-->", "".join((tables.ROOT / page).read_text() for page in tables.PAGES)
)
"""Each table of the pages: its name, and what is wanted."""


def drawn_from(table, wanted):
    """The commands of the records that a table reads, by the record's name."""
    found = {}
    for name in (name for _, records in tables.TABLES[table](wanted) for name in records):
        record = json.loads((tables.ROOT / f"launch/results/{name}.json").read_text())
        rows = [row for row in record.get("rows", []) if "provenance" in row] or [record]
        found[name] = [row["provenance"]["command"] for row in rows]
    return found


def in_its_page(table, wanted):
    """What readers see of a table."""
    mark = re.escape(f"<!-- table:{table} {wanted}".strip() + " -->\n")
    for page in tables.PAGES:
        text = (tables.ROOT / page).read_text()
        if found := re.search(rf"{mark}(.*?)<!-- end -->", text, re.DOTALL):
            return found[1]
    raise AssertionError(f"no page has table {table} {wanted}")


@pytest.mark.parametrize(("table", "wanted"), MARKS)
def test_a_table_names_the_flags_by_which_its_records_differ(table, wanted):
    text = in_its_page(table, wanted)
    served = {
        name: made
        for name, commands in drawn_from(table, wanted).items()
        if (made := [given for command in commands if (given := started_with(command)) is not None])
    }
    one = {name: made[0] for name, made in served.items() if len(made) == 1}
    for flag in {flag for given in one.values() for flag in given} - {*flags.BOUNDS}:
        values = {name: given.get(flag) for name, given in one.items()}
        if len(set(values.values())) > 1:
            assert f"`{flag}`" in text, f"{table}: {flag} differs: {values}"
            for name, value in values.items():
                assert f"`{name}`" in text and (value or "with") in text, (
                    f"{table}: which records have {flag}"
                )
    for off in PREFILL_GRAPHS_OFF:
        flag, _, value = off.partition(" ")
        if any(given.get(flag) == value for made in served.values() for given in made):
            assert f"`{off}`" in text and "not SGLang's default" in text, f"{table}: {off}"


def test_tables_of_several_records_were_compared():
    """The test above saw what it is for."""
    several = {mark for mark in MARKS if len(drawn_from(*mark)) > 1}
    assert {("ab", "v32-tp8-rank"), ("ab", "v32-4l"), ("goals", ""), ("sums", "quality-pairs*")} <= several


def ab(*given):
    return Record(flags=("--model-path", "/tmp/w/model", "--max-running-requests", "8", *given))


OFF = "--disable-prefill-cuda-graph"


def test_a_new_record_without_the_flag_beside_an_old_one():
    text = flags.note({"old": ab(OFF), "new": ab(), "newer": ab()})
    assert text == (
        f"<sub>Servers of these records differ in `{OFF}` (not SGLang's default, which captures CUDA graphs "
        "of prefill steps, too) – with: `old`; without: `new`, `newer`.</sub>"
    )


def test_what_a_server_can_hold_at_most_is_no_difference():
    sizes = ("--context-length", "8000", "--max-total-tokens", "9000")
    assert flags.note({"a": ab(), "b": ab(*sizes)}) == ""
    text = flags.note({"a": ab("--chunked-prefill-size", "1"), "b": ab(*sizes)})
    assert "`--chunked-prefill-size` – 1: `a`; without: `b`" in text and "8000" not in text


def test_values_that_differ_and_what_all_have():
    text = flags.note({"a": ab(OFF, "--tp", "2"), "b": ab("--tp=4", OFF), "c": ab(OFF)})
    assert "`--tp` – 2: `a`; 4: `b`; without: `c`. All servers had" in text
    assert (
        f"`{OFF}`, which is not SGLang's default: it captures" in text
        and "--max-running-requests" not in text
    )
    assert f"All servers had `{OFF}`" in flags.note({"alone": ab(OFF)})


def test_the_folder_of_a_model_is_no_difference():
    other = Record(flags=("--model-path", "out/model", "--max-running-requests", "8"))
    assert flags.note({"a": ab(), "b": other}) == ""
    assert "--model-path" in flags.note({"a": ab(), "b": Record(flags=("--model-path", "out/glm"))})


def test_calls_of_one_record():
    def row(more):
        command = (
            f"launch/acceptance/stress/__main__.py --out /tmp/x --slice small --scenes radix abort {more}"
        )
        return Row(provenance=Provenance(command=command))

    off = "--cuda-graph-backend-prefill disabled"
    record = Record(rows=(row(off), row(f"--enable-hierarchical-cache {off}"), row("")))
    assert flags.note({"stress.json": record}).startswith(
        f"<sub>Some servers had `{off}`, which is not SGLang's default"
    )
    assert flags.note({"stress.json": Record(rows=(row(""),))}) == ""


def test_records_without_servers_have_no_note():
    command = "cli/__main__.py bench kernels --repeats 10"
    kernels = Record(provenance=Provenance(command=command), rows=(Row(),))
    assert flags.of_servers(kernels) == [] and flags.note({"a": kernels, "b": Record()}) == ""


@pytest.mark.parametrize("command", ["eval", "stress"])
def test_own_options_are_those_of_the_commands(command):
    """A new option of ours would be taken for a flag of SGLang's."""
    assert own_options(command) <= flags.OWN
