"""The pages agree with the code: tables are those of the records, links lead somewhere, commands exist."""

import dataclasses
import json
import re
import shlex

import pytest

from sglang_hisa.config import PRESETS, Config
from sglang_hisa.launch.cli import COMMANDS, make_parser, presets
from sglang_hisa.launch.pages import supported, tables

ROOT = tables.ROOT
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "kernels/NOTES.md", ROOT / "CHANGELOG.md"]
REFERENCE = (ROOT / "docs/reference.md").read_text()
FENCED = re.compile(r"^ *```\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def rows_below(heading: str, text: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    lines = text.split(f"{heading}\n", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    end = next(i for i in range(start, len(lines) + 1) if i == len(lines) or not lines[i].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[start + 2 : end]]


def anchors(text: str) -> set[str]:
    """Names under which GitHub links to the headings of a page."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.append(re.sub(r"[^\w\- ]", "", shown).replace(" ", "-"))
    return {name if not (n := found[:i].count(name)) else f"{name}-{n}" for i, name in enumerate(found)}


def broken_links(page, text: str) -> list[str]:
    """Links of ``text``, which stands at ``page``, to files or headings that do not exist."""
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", FENCED.sub("", text)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        known = {""} if target.exists() else set()
        if anchor and known:
            known = anchors(text if target == page else target.read_text())
        if anchor not in known:
            broken.append(link)
    return broken


def test_tables_are_those_of_the_records():
    found = []
    for page in tables.PAGES:
        text = (tables.ROOT / page).read_text()
        found += re.findall(r"<!-- table:(\w+)[^\n]* -->", text)
        assert tables.render(text, page) == text, "run python -m sglang_hisa.launch.pages.tables"
    assert set(found) == set(tables.TABLES)


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md"])
def test_a_changed_figure_is_noticed(page):
    text = (ROOT / page).read_text()
    changed = re.sub(r"128K( [^|]*)?\| (\d)", r"128K\1| 9\2", text)
    assert changed != text and tables.render(changed, page) == text


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md", "docs/guide.md"])
def test_no_speed_up_is_typed_in(page):
    typed = re.sub(r"<!-- table:.*?<!-- end -->", "", (ROOT / page).read_text(), flags=re.DOTALL)
    assert not re.findall(r".*\d ?×.*", typed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    assert broken_links(page, page.read_text()) == []


def test_a_link_that_leads_nowhere_is_noticed():
    text = "# One `two`: 3 % of it\n## Same\n## Same\n[a](#one-two-3--of-it) [b](#same-1) [c](LICENSE)"
    assert broken_links(README, text) == []
    for link in ("#same-2", "docs/none.md", "docs/guide.md#none", "#One"):
        assert broken_links(README, f"{text} ![d]({link})") == [link]
    assert broken_links(README, f"{text} [e](docs/guide.md#install) [f](https://a.b/c#d)") == []


def test_the_readme_is_short_and_leads_to_every_page():
    text = README.read_text()
    assert text.count("\n") <= 180
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in text
    assert "pip install --no-deps sglang_hisa-*.whl" in text
    images = list((ROOT / "docs/images").iterdir())
    assert images and all(f"](docs/images/{path.name})" in text for path in images)
    assert all(path.stat().st_size < 200_000 for path in images)


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {page: set(re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(), re.MULTILINE)) for page in PAGES}
    assert named[README] >= {"demo", "test"}
    assert set().union(*named.values()) <= targets


def test_presets_are_those_of_the_code():
    def short(cell: str) -> str:
        return re.sub(r"\b(\d+)\b", lambda m: f"{int(m[1]) // 1024}K" if int(m[1]) > 2048 else m[1], cell)

    shown = rows_below("## Which preset?", README.read_text())
    want = [[short(cell) for cell in row] for row in presets.rows()]
    assert [[f"{row[0].replace('`', '').replace('(default)', '*')}", *row[1:]] for row in shown] == want
    assert len(shown) == len(PRESETS)


def test_every_key_and_its_default_is_in_the_reference():
    shown = {row[0].strip("`"): json.loads(row[1].strip("`")) for row in rows_below("## Keys", REFERENCE)}
    assert shown == {field.name: field.default for field in dataclasses.fields(Config)}


def test_every_metric_is_in_the_reference():
    """The dashboard shows every metric that a server exports (tests/launch/live/test_dashboard.py)."""
    board = (ROOT / "launch/grafana/sglang-hisa.json").read_text()
    shown = "".join(row[0] for row in rows_below("## Metrics", REFERENCE))
    names = r"\bsglang_hisa:\w+"
    assert set(re.findall(names, shown)) == set(re.findall(names, board))
    for page in PAGES:
        assert set(re.findall(names, page.read_text())) <= set(re.findall(names, shown))


def test_every_command_is_in_the_reference():
    cells = [row[0].strip("`").split() for row in rows_below("## Commands", REFERENCE)]
    shown = {words[1] for words in cells if words[0] == "hisa"}
    assert shown == {command.__name__.rpartition(".")[2] for command in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_shown_are_understood(page):
    for block in FENCED.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.split(r"&&|;", line):
                words = shlex.split(command, comments=True) if command.strip().startswith("hisa ") else []
                if words and words[1] != "bench":  # its kinds read their own flags
                    args, rest = make_parser().parse_known_args(words[1:])
                    assert not rest or args.passes_flags_on, command


def test_the_receipt_shown_is_one_of_a_record():
    shown = re.search(r"^sglang-hisa receipt: ({.*), …}$", README.read_text(), re.MULTILINE)
    want = json.loads(shown[1] + "}")
    records = [json.loads(path.read_text()) for path in (ROOT / "launch/results").glob("ab-*.json")]
    receipts = [arm["receipt"] or {} for record in records for arm in record["arms"].values()]
    assert want in [{key: receipt.get(key) for key in want} for receipt in receipts]
    assert list(want) == sorted(want), "in the order of the log"


def test_supported_page_is_that_of_the_tables():
    assert supported.main(["--check"]) == 0, "run python -m sglang_hisa.launch.pages.supported"
